"""A short turn of `benchmarks.load`: many editors at a real server with a real model, none of whom it may fail."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.compile, pytest.mark.slow]


def test_editors_at_once_get_answers_or_honest_refusals(tmp_path: Path) -> None:
    from benchmarks.load import measure
    from benchmarks.small_bundle import small_bundle

    figures = measure(small_bundle(tmp_path), clients=8, seconds=4, alone_seconds=2, queue_limit=4)
    for who in ("alone", "all"):
        assert figures[who]["errors"] == 0, figures[who]["what_went_wrong"]
        assert figures[who]["answered"] > 0
        assert set(figures[who]["refusals"]) <= {"429 overloaded", "503 overloaded"}
    assert figures["server"]["request_superseded"] > 0
    assert figures["memory_megabytes"]["end"] < figures["memory_megabytes"]["start"] + 32
    assert figures["stopped"]["exit_code"] == figures["stopped"]["errors"] == 0, figures["stopped"]["what_went_wrong"]
