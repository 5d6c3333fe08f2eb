"""Time and cost beside the reference's, and how they follow from what they depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolchain.planning import duration, gpus, layers, models, published
from toolchain.planning.command import settings_for
from toolchain.planning.settings import PlanSettings
from train import presets

BASE = models.read("bigcode/starcoderbase-1b")
PLAIN = PlanSettings(method="full", evaluate_every=10**9, evaluate_sequences=1)


@pytest.mark.parametrize("name", published.RUNS)
def test_the_published_time_and_cost(name: str) -> None:
    preset, run = presets.load(name), published.RUNS[name]
    gpu = gpus.find(preset.gpu)
    found = duration.predict(
        models.read(preset.base), settings_for(preset), gpu.flops, preset.count, gpus.bandwidth("published")
    )
    assert gpu.price is not None
    assert found.hours == pytest.approx(run.hours, rel=0.25)
    assert found.hours * gpu.price * preset.count == pytest.approx(run.dollars, rel=0.25)
    assert found.tokens == 2000 * 16 * 2048


def test_operations_of_a_token() -> None:
    weights, short = layers.multiplied(BASE), replace(PLAIN, sequence_length=1)
    assert duration.operations(BASE, short) == pytest.approx(6 * weights, rel=1e-3)
    assert duration.operations(BASE, replace(short, gradient_checkpointing=True)) == pytest.approx(
        8 * weights, rel=1e-3
    )
    lora = replace(short, method="lora", lora_rank=1)
    assert duration.operations(BASE, lora) == pytest.approx(4 * weights, rel=5e-3)
    more = duration.operations(BASE, replace(PLAIN, sequence_length=2049)) - duration.operations(BASE, PLAIN)
    assert more == 3 * 4 * BASE.query_size * BASE.layers


def test_several_gpus_share_the_work_and_move_weights() -> None:
    one = duration.predict(BASE, PLAIN, 1e14, 1, 1e9)
    eight = duration.predict(BASE, PLAIN, 1e14, 8, 1e9)
    assert one.moving == 0
    assert eight.tokens == 8 * one.tokens
    passes = PLAIN.max_steps * PLAIN.gradient_accumulation
    assert eight.moving == pytest.approx(passes * 3 * 2 * BASE.parameters * 7 / 8 / 1e9)
    assert duration.predict(BASE, PLAIN, 1e14, 8, 2e9).moving == pytest.approx(eight.moving / 2)


def test_a_window_bounds_attention() -> None:
    windowed = models.read("bigcode/starcoder2-3b")
    assert windowed.window is not None
    beyond = duration.forward_operations(windowed, windowed.window * 2)
    assert beyond == duration.forward_operations(windowed, windowed.window)
