"""Standard streams that a command can do without: closed ones, and a standard error that nobody reads any more.

A training goes on for days, and the terminal or program that it talks to may be gone before its end.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


def do_without_missing() -> None:
    """Have all three descriptors open, and nothing that is said on standard error end the command.

    A closed descriptor would be given to the next file that is opened, and what is meant for standard error be written
    into that one.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_nowhere(number)
            # Not closed before the process ends, so no context manager.
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stderr = _Unheard(sys.stderr)


def _open_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


class _Unheard:
    """A text stream whose other end may go away."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
