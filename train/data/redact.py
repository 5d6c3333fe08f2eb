"""Secrets in source text, by a small table of shapes that hardly ever occur otherwise.

The table is short on purpose: a pattern is here only when what it matches is a credential by its own
prefix and length. Passwords, tokens without a prefix and personal data are not recognised.
"""

from __future__ import annotations

import re
from collections import Counter

SHAPES = {
    # The body is bounded so that a header without an end costs no quadratic search.
    "private key": (
        "PRIVATE KEY",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[^-]{1,16384}(?:-[^-]{1,16384}){0,8}?"
        r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    ),
    "AWS access key": ("A", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": ("gh", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    "GitHub fine-grained token": ("github_pat_", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{40,255}\b"),
    "GitLab token": ("glpat-", r"\bglpat-[A-Za-z0-9_-]{20,255}"),
    "Google API key": ("AIza", r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    "Hugging Face token": ("hf_", r"\bhf_[A-Za-z]{34}\b"),
    "npm token": ("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    "PyPI token": ("pypi-", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,1000}"),
    # Words joined by hyphens begin with sk- too (class names of style sheets): a digit and a capital are required.
    "sk- API key": (
        "sk-",
        r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]{0,255}[0-9])(?=[A-Za-z0-9_-]{0,255}[A-Z])[A-Za-z0-9_-]{32,255}",
    ),
    "Slack token": ("xox", r"\bxox[abeoprs]-[0-9]{6,}-[A-Za-z0-9-]{10,255}"),
    "Stripe key": ("k_live_", r"\b[rs]k_live_[A-Za-z0-9]{20,255}\b"),
}
_PATTERNS = {kind: (literal, re.compile(pattern)) for kind, (literal, pattern) in SHAPES.items()}


def redact(text: str) -> tuple[str, Counter[str]]:
    """`text` with each secret replaced by `<redacted KIND>`, and how many there were of each kind."""
    found: Counter[str] = Counter()
    for kind, (literal, pattern) in _PATTERNS.items():
        if literal in text:
            text, count = pattern.subn(f"<redacted {kind}>", text)
            if count:
                found[kind] += count
    return text, found
