"""What a process leaves behind for its launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.contracts.errors import Interrupted, SettingsError, StageError
from train.launch import worker
from train.launch.worker import Report


@pytest.mark.parametrize(
    ("error", "report"),
    [
        (SettingsError("no", "Do."), Report("no", "Do.", 2)),
        (Interrupted(), Report("interrupted", "Run the same command again to continue.", 130)),
        (KeyError("x"), Report("KeyError: 'x'", "Please report this, with its traceback.", 1, "Traceback")),
        (StageError("not written (Broken pipe)"), Report("not written (Broken pipe)", "", 1, lost=True)),
    ],
)
def test_an_error_is_told_in_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, report: Report
) -> None:
    assert not worker.is_launched()
    monkeypatch.setenv(worker.REPORTS, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    assert worker.is_launched()
    worker.tell(error, "Traceback" if report.traceback else "")
    assert worker.reports(tmp_path) == {3: report}
