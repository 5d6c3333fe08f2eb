"""Curves are read back with TensorBoard's own reader: every point once, however often the run was interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolchain.airplane import GUARD
from tests.train.tiny import LORA, Lines, fail, interrupt, opened, without
from toolchain.contracts.errors import MissingExtra
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train
from train.running import RunSettings

pytestmark = pytest.mark.train
accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the track extra"
)
ROOT = Path(__file__).parents[3]


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """The points of each curve by step, none of which may stand twice."""
    (run,) = folder.iterdir()
    reader = accumulator.EventAccumulator(str(run), size_guidance={accumulator.SCALARS: 0}).Reload()
    found = {}
    for tag in reader.Tags()["scalars"]:
        steps = [event.step for event in reader.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
        found[tag] = {event.step: event.value for event in reader.Scalars(tag)}
    return found


def test_an_interrupted_run_has_the_curves_of_an_undisturbed_one(
    dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    runs = {}
    for name, stops in (("whole", ()), ("cut", ((5, fail, OSError), (8, interrupt, KeyboardInterrupt)))):
        plan = plan_train(dataset, opened(base_folder), LORA, RunSettings(track=str(tmp_path / name)))
        for step, action, error in stops:
            with pytest.raises(error):
                execute(plan, tmp_path / f"out-{name}", Lines(step, action))
        made = execute(plan, tmp_path / f"out-{name}", Silent())
        runs[name] = curves(tmp_path / name)
        points = {point["step"]: point for point in made.facts["loss_curve"]}
        assert runs[name]["loss/held-out"] == pytest.approx({step: p["loss"] for step, p in points.items()})
        assert runs[name]["bits per byte"] == pytest.approx({step: p["bits_per_byte"] for step, p in points.items()})
        for curve in ("loss/training", "learning rate", "tokens per second", "memory in GB"):
            assert list(runs[name][curve]) == list(range(1, 13))
    assert len(list(next((tmp_path / "cut").iterdir()).iterdir())) == 3
    for curve in ("loss/training", "loss/held-out", "learning rate", "bits per byte"):
        assert runs["cut"][curve] == runs["whole"][curve]


def test_where_curves_go_does_not_decide_the_artifact(dataset: Path, base_folder: Path) -> None:
    base = opened(base_folder)
    tracked = plan_train(dataset, base, LORA, RunSettings(track="anywhere", device="cpu"))
    assert tracked.key == plan_train(dataset, base, LORA).key


def test_tracking_reaches_for_no_network(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    log = tmp_path / "log"
    path = f"{tmp_path / 'guard'}{os.pathsep}{ROOT}"
    words = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", "--track", tmp_path / "curves"]
    given = ["--max-steps", "2", "--sequence-length", "64", "--batch-size", "2", "--evaluate-sequences", "2"]
    command = [sys.executable, "-P", "-m", "toolchain.cli", *map(str, words), *given]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "AIRPLANE_LOG": str(log)}, check=True, cwd=tmp_path)
    assert list(tmp_path.glob("log.*"))
    assert not log.exists() or log.read_text() == ""
    assert set(curves(tmp_path / "curves")["loss/training"]) == {1, 2}


def test_without_tensorboard_it_is_refused_before_the_work(
    dataset: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "tensorboard")
    with pytest.raises(MissingExtra, match="tensorboard is not installed"):
        plan_train(dataset, opened(base_folder), LORA, RunSettings(track="curves"))
