"""What the tests of clients ask for and what the scripted model answers, each in one place."""

from __future__ import annotations

REPLY = "return a + b"
PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
FIM = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"
ANSWER = "Use sorted(a).\n"
MESSAGES = [{"role": "user", "content": "How do I sort a list?"}]
KEY = "secret"
