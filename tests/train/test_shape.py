"""What a base has no room for is refused by a plan and by a training, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.conftest import Fimble
from tests.toolchain.conftest import fimble as fimble
from tests.train.tiny import Lines, opened
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.stage import execute
from toolchain.options import command_line
from toolchain.planning import models
from train.fine_tune import plan_train
from train.settings import TrainSettings
from train.shape import check_shape

pytestmark = pytest.mark.train

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "full", "lora_target": ["c_proj"]}, "--lora-target has no effect with --method full"),
    ({"method": "full", "lora_rank": 4}, "--lora-rank has no effect with --method full"),
    (
        {"lora_target": ["q_proj"]},
        "--lora-target: no layer of tiny-base is called q_proj. It has: c_attn, c_fc, c_proj",
    ),
    ({"lora_target": ["lm_head"]}, "--lora-target: no layer of tiny-base is called lm_head"),
    ({"lora_rank": 100_000}, "--lora-rank 100000 is more than the rank that the adapted layers of tiny-base can have"),
    ({"lora_rank": 65}, "Use 64 or less."),
    ({"sequence_length": 129}, "--sequence-length 129 is more than the 128 positions of tiny-base. Use 128 or fewer."),
    ({"repository_context": 100}, "--repository-context cannot be 100. Use at most 64."),
    ({"add_fim_tokens": True}, "--add-fim-tokens: tiny-base has FIM tokens already"),
    ({"fim_rate": 0.0, "cuts": "lines"}, "--cuts has no effect with --fim-rate 0"),
    ({"warmup_steps": 40, "max_steps": 20}, "--warmup-steps 40 is more than --max-steps 20"),
]


@pytest.mark.parametrize(("values", "told"), REFUSED)
def test_a_plan_and_a_training_refuse_the_same(
    fimble: Fimble, dataset: Path, base_folder: Path, values: dict[str, Any], told: str
) -> None:
    words = ("--base", base_folder, *command_line(values))
    planned, trained = fimble("plan", *words), fimble("train", dataset, "--out", "out", *words)
    trained.refused(told)
    assert planned.err.replace(str(base_folder), base_folder.name) == trained.err
    assert not Path("out").exists()


def test_the_largest_adapted_layer_bounds_the_rank_and_with_pissa_the_smallest() -> None:
    facts = models.read("HuggingFaceTB/SmolLM2-135M")  # 576 features, of which keys and values have 192
    check_shape(TrainSettings(lora_rank=576), facts, "smol")
    check_shape(TrainSettings(lora_rank=192, init="pissa"), facts, "smol")
    for settings, most in ((TrainSettings(lora_rank=577), 576), (TrainSettings(lora_rank=193, init="pissa"), 192)):
        with pytest.raises(SettingsError, match=f"Use {most} or less"):
            check_shape(settings, facts, "smol")


def test_the_highest_rank_is_trained(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    short = TrainSettings(
        max_steps=3, warmup_steps=2, batch_size=1, gradient_accumulation=1, evaluate_sequences=1, lora_rank=64
    )
    listener = Lines()
    execute(plan_train(dataset, opened(base_folder), short), tmp_path / "out", listener)
    assert "the warm-up takes 1 steps, half of the training, and not 2" in listener.lines
    assert "sequences have 128 tokens, the context of tiny-base" in listener.lines
