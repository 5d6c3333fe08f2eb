"""Curves of a training as TensorBoard's event files: a folder on this machine, which anything that reads them shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes what a training measures. `begin` comes first, `save` before each state that a run may resume from."""

    def begin(self, after: int) -> None:
        """Points follow, of steps after this one; what an interrupted run wrote of later ones no longer counts."""
        ...

    def point(self, step: int, values: Mapping[str, float]) -> None: ...

    def save(self) -> None: ...

    def end(self) -> None: ...


class Nowhere:
    """Keeps nothing."""

    def begin(self, after: int) -> None:
        pass

    def point(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def save(self) -> None:
        pass

    def end(self) -> None:
        pass


class EventFiles:
    """Writes to `folder`; `begin` adds a file of its own there, so that a resumed run goes on in the same curves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=after + 1 if after else 0)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def save(self) -> None:
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()
