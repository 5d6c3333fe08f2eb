"""The command line run within the test's own process, in an empty folder."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolchain.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind: its exit code, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The object on the last line of standard output."""
        report: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return report

    def refused(self, *words: str, code: int = 2) -> None:
        """Assert that it ended with one line that holds `words`, and with no traceback."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        (line,) = (line for line in self.err.splitlines() if line.startswith("error: "))
        assert self.err.endswith(f"{line}\n")
        for word in words:
            assert word in line


Fimble = Callable[..., Done]


@pytest.fixture
def fimble(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fimble:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["fimble", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return Done(code, *capsys.readouterr())

    return run
