"""What the user sees on standard error: bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serve import logs

PLAIN_EVERY_SECONDS = 10.0


@contextmanager
def console(log_format: logs.Format = "text") -> Iterator[Bars | Lines]:
    """The listener that fits standard error; whatever happens meanwhile, the terminal is given back as it was.

    For a server whose log is JSON all lines are records of that log, which is set up here.
    """
    if log_format == "json":
        logs.set_up(log_format)
        yield Records()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.finish()


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show on a terminal that something takes its time; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    with console() as bars:
        bars.start(title)
        yield


class Lines:
    """For logs: one line when something starts and ends, and one now and then between."""

    def __init__(self) -> None:
        self._title, self._unit, self._note = "", "", ""
        self._total: int | None = None
        self._done, self._begun, self._shown = 0, 0.0, 0.0

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self._title, self._total, self._unit, self._note = title, total, unit, ""
        self._done, self._begun, self._shown = 0, time.monotonic(), time.monotonic()
        self.say(f"{title} …")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if time.monotonic() - self._shown >= PLAIN_EVERY_SECONDS:
            self._shown = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            self.say(" ".join(f"{self._title}: {self._done}{of} {self._unit} {self._note}".split()))

    def table(self, values: Mapping[str, str]) -> None:
        self._note = ", ".join(f"{name} {value}" for name, value in values.items())

    def finish(self) -> None:
        self.say(f"{self._title}: done in {time.monotonic() - self._begun:.1f} s")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Records(Lines):
    """The same lines in the log of the server."""

    def say(self, line: str) -> None:
        logs.log.info(line)


class Bars:
    """For terminals: one live bar with a table below it, and lines that stay above them."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bars: Any = None
        self._task: Any = None
        self._live: Any = None

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.finish()
        count = [BarColumn(), MofNCompleteColumn(), TextColumn(unit)] if total else []
        left = [TimeRemainingColumn()] if total else []
        note = TextColumn("{task.fields[note]}")
        columns = [TextColumn("{task.description}"), *count, TimeElapsedColumn(), *left, note]
        self._bars = Progress(*columns, console=self._console)
        self._task = self._bars.add_task(title, total=total, note="")
        self._live = Live(self._bars, console=self._console)
        self._live.start()

    def advance(self, amount: int = 1, note: str = "") -> None:
        if self._bars is not None:
            self._bars.update(self._task, advance=amount, **({"note": note} if note else {}))

    def table(self, values: Mapping[str, str]) -> None:
        from rich.console import Group
        from rich.table import Table

        table = Table(*values, box=None, padding=(0, 3, 0, 0), header_style="dim")
        table.add_row(*values.values())
        if self._live is not None:
            self._live.update(Group(self._bars, table))

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._bars = self._live = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)
