"""The wish to stop, noted: processes that train together stop after the same step, or none could save a state."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wish:
    """Whether SIGINT or SIGTERM has come."""

    came: bool = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self.came = True


@contextmanager
def noted(together: bool) -> Iterator[Wish]:
    """Where processes train `together`, note the signals that otherwise interrupt; only the main thread gets any."""
    wish = Wish()
    signals = (signal.SIGINT, signal.SIGTERM) if together else ()
    before = {number: signal.signal(number, wish.note) for number in signals}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
