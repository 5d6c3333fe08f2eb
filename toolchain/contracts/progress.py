"""How a stage tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """A listener. A stage calls `start`, `table` and `advance` again and again, then `finish`; `say` at any time."""

    def start(self, title: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units done; `note` replaces the short text shown behind the bar."""
        ...

    def table(self, values: Mapping[str, str]) -> None:
        """What is known now, by name, in place of what was known before."""
        ...

    def finish(self) -> None: ...

    def say(self, line: str) -> None:
        """One line that stays on the screen."""
        ...


class Silent:
    """A listener that shows nothing: for tests and for use as a library."""

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        pass

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def table(self, values: Mapping[str, str]) -> None:
        pass

    def finish(self) -> None:
        pass

    def say(self, line: str) -> None:
        pass
