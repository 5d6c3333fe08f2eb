"""A server as the settings need to know it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.contracts import fim
from toolchain.contracts.editors.served import Served


@pytest.fixture
def served() -> Served:
    tokenizer = Path("/home/ada/my code/.fimble/current/params/tokenizer.json")
    return Served("http://127.0.0.1:8000", tokenizer, fim.STARCODER, 8192, "copilot")
