"""Where the demo puts its cursors, and how it tells what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.tiny import library_texts, write_dataset
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Silent
from toolchain.demo import CURSORS, OWN_CODE, held_out_places, lines, run_demo

TINY: dict[str, dict[str, Any]] = {
    "scratch": {
        "vocabulary": 600,
        "hidden_size": 64,
        "layers": 1,
        "context_size": 128,
        "max_steps": 4,
        "evaluate_sequences": 2,
    },
    "train": {"sequence_length": 128, "max_steps": 2, "batch_size": 2, "evaluate_every": 1, "evaluate_sequences": 2},
}

pytestmark = pytest.mark.train


@pytest.mark.compile
def test_the_whole_road_ends_in_completions_and_what_is_tuned_is_not_what_the_base_was_grown_on(
    tmp_path: Path,
) -> None:
    report = run_demo([], tmp_path / "work", TINY, Silent())
    assert [stage["stage"] for stage in report["stages"]] == ["collect", "general", "base", "train", "merge", "compile"]
    grown, tuned = (report["held_out"][stage] for stage in ("base", "train"))
    assert grown["end"]["loss"] < grown["start"]["loss"]
    assert tuned["start"] != grown["end"]  # another dataset's held-out files
    assert len(report["completions"]) == CURSORS
    for done in report["completions"]:
        path, line = done["place"].split(":")
        found = [folder / path for folder in map(Path, OWN_CODE) if (folder / path).is_file()]
        assert any(file.read_text("utf-8").splitlines()[int(line) - 1].startswith(done["before"]) for file in found)
    again = run_demo([], tmp_path / "work", TINY, Silent())
    assert not any(stage["made"] for stage in again["stages"])
    assert again["bundle"] == report["bundle"]


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
