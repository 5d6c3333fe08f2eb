"""Where the demo puts its cursors, and how it tells what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.tiny import library_texts, write_dataset
from toolchain.contracts.errors import ArtifactError
from toolchain.demo import CURSORS, held_out_places, lines

pytestmark = pytest.mark.train


def test_cursors_stand_in_held_out_files_and_the_parts_make_the_file(tmp_path: Path) -> None:
    texts = library_texts(("shlex.py", "bisect.py", "textwrap.py", "heapq.py", "csv.py"))
    dataset = write_dataset(tmp_path / "data", ["x = 1\n"], ["short\n", *texts])
    places = held_out_places(dataset)
    assert len(places) == CURSORS
    for place, text in zip(places, texts, strict=False):
        assert place["prefix"] + place["middle"] + place["suffix"] == text
        assert place["middle"].strip()
    assert places[0]["path"].startswith("heldout/1.py:")


def test_a_dataset_that_cannot_be_read_is_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "data", ["x = 1\n"], ["y = 2\n"])
    next((dataset / "data").glob("heldout-*")).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="the heldout split of"):
        held_out_places(dataset)
    assert capfd.readouterr() == ("", "")


def test_the_report_for_people_shows_each_completion_beside_the_truth() -> None:
    point = {"loss": 2.0, "bits_per_byte": 1.0}
    report = {
        "workspace": "work",
        "bundle": "work/bundle/1",
        "stages": [{"stage": "train", "made": True, "seconds": 1.25, "folder": "work/adapter/1"}],
        "seconds": 2.5,
        "held_out": {"train": {"start": {**point, "loss": 3.0}, "end": point}},
        "completions": [{"place": "a.py:3", "before": "  if", "truth": " x:", "completion": " y:", "milliseconds": 7}],
        "vscode": {"llm.backend": "tgi"},
    }
    shown = "\n".join(lines(report))
    assert "    file says:    if| x:\n    completion:   if| y:" in shown
    assert "held-out FIM loss of train: 3.000 -> 2.000" in shown
    assert "fimble serve work" in shown
    assert '"llm.backend": "tgi"' in shown
