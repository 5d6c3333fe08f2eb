"""Training losses step by step: every step counts, and long runs are thinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.tiny import LORA, failed_and_resumed, opened
from toolchain.contracts import manifest
from train.fine_tune import plan_train
from train.run.schedule import learning_rate
from train.run.training_curve import MOST_POINTS, points

pytestmark = pytest.mark.train


@pytest.mark.parametrize("count", [0, 1, MOST_POINTS, MOST_POINTS + 1, 2000, 2001, 7919])
def test_the_mean_of_each_group_stands_at_its_last_step(count: int) -> None:
    losses = [float(step) for step in range(1, count + 1)]
    found = points(losses, lambda step: 1.0 / step)
    assert len(found) <= MOST_POINTS
    begin = 0
    for point in found:
        part = losses[begin : point["step"]]
        assert point["loss"] == pytest.approx(sum(part) / len(part))
        assert point["learning_rate"] == 1.0 / point["step"]
        begin = point["step"]
    assert begin == count


def test_a_run_that_failed_and_was_resumed_has_every_step(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    failed_and_resumed(plan_train(dataset, opened(base_folder), LORA), tmp_path / "out")
    facts = manifest.read(tmp_path / "out").facts
    curve = facts["training_curve"]
    assert [point["step"] for point in curve] == list(range(1, LORA.max_steps + 1))
    assert [point["learning_rate"] for point in curve] == [
        learning_rate(step, LORA.max_steps, LORA) for step in range(1, LORA.max_steps + 1)
    ]
    for before, point in zip(facts["loss_curve"], facts["loss_curve"][1:], strict=False):
        part = [step["loss"] for step in curve if before["step"] < step["step"] <= point["step"]]
        assert point["train_loss"] == pytest.approx(sum(part) / len(part), abs=2e-6)
