"""Time and cost beside the reference's, and how they follow from what they depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolchain.planning import duration, gpus, layers, models, published
from toolchain.planning.command import settings_for
from toolchain.planning.duration import Duration
from train import presets
from train.settings import TrainSettings

BASE = models.read("bigcode/starcoderbase-1b")
PLAIN = TrainSettings(method="full", evaluate_every=10**9, evaluate_sequences=1)


def reference(name: str) -> Duration:
    """The time of the reference's own loop."""
    preset = presets.load(name)
    return published.lasting(models.read(preset.base), settings_for(preset), gpus.find(preset.gpu), preset.count)


@pytest.mark.parametrize("name", published.RUNS)
def test_the_published_time_and_cost(name: str) -> None:
    preset, run, found = presets.load(name), published.RUNS[name], reference(name)
    price = gpus.find(preset.gpu).price
    assert price is not None
    assert found.hours == pytest.approx(run.hours, rel=0.1)
    assert found.hours * price * preset.count == pytest.approx(run.dollars, rel=0.1)
    assert found.tokens == 2000 * 16 * 2048


def test_the_published_pace_is_what_arithmetic_leaves_of_the_published_hours() -> None:
    name = "starcoder-full-fsdp-8xa100-80gb"
    found, model = reference(name), models.read(presets.load(name).base)
    # In each of 2,000 steps 7/8 of the weights came twice in two passes, and of the gradients once, in 16 bits.
    received = 2000 * 7 / 8 * (2 * 2 + 1) * 2 * model.parameters
    left = published.RUNS[name].hours * 3600 - (found.seconds - found.moving)
    assert received / left == pytest.approx(gpus.bandwidth("published"), rel=0.01)


def test_operations_of_a_token() -> None:
    weights, short = layers.multiplied(BASE), replace(PLAIN, sequence_length=64)
    assert duration.operations(BASE, short) == pytest.approx(6 * weights, rel=1e-2)
    again = duration.operations(BASE, replace(short, gradient_checkpointing=True)) - duration.operations(BASE, short)
    assert again == pytest.approx(2 * layers.block_weights(BASE), rel=1e-2)  # and not the head
    lora = replace(short, method="lora", lora_rank=1)
    assert duration.operations(BASE, lora) == pytest.approx(4 * weights, rel=2e-2)
    more = duration.operations(BASE, replace(PLAIN, sequence_length=2049)) - duration.operations(BASE, PLAIN)
    assert more == 3 * 4 * BASE.query_size * BASE.layers


@pytest.mark.parametrize(("steps", "every", "evaluations"), [(100, 100, 2), (100, 40, 4), (100, 1000, 2)])
def test_the_start_and_the_end_are_evaluated_too(steps: int, every: int, evaluations: int) -> None:
    one, two = (
        duration.predict(
            BASE, replace(PLAIN, max_steps=steps, evaluate_every=every, evaluate_sequences=rows), 1e14, 1, 1
        )
        for rows in (1, 2)
    )
    a_sequence = PLAIN.sequence_length * duration.forward_operations(BASE, PLAIN.sequence_length) / 1e14
    assert two.seconds - one.seconds == pytest.approx(evaluations * a_sequence)


def test_several_gpus_share_the_work_and_move_weights() -> None:
    one = duration.predict(BASE, PLAIN, 1e14, 1, 1e9)
    eight = duration.predict(BASE, PLAIN, 1e14, 8, 1e9)
    assert one.moving == 0
    assert eight.tokens == 8 * one.tokens
    passes = PLAIN.max_steps * PLAIN.gradient_accumulation
    # Weights twice in 16 bits, gradients in 32.
    assert eight.moving == pytest.approx(passes * (2 * 2 + 4) * BASE.parameters * 7 / 8 / 1e9)
    assert duration.predict(BASE, PLAIN, 1e14, 8, 2e9).moving == pytest.approx(eight.moving / 2)


def test_what_an_adapters_base_moves() -> None:
    model, rank = models.read("bigcode/starcoder"), 8
    adapter, outside = layers.adapter_parameters(model, rank), model.parameters - layers.block_weights(model)
    moved = {
        method: duration.moved_bytes(model, replace(PLAIN, method=method, lora_rank=rank), 2)
        for method in ("lora", "qlora")
    }
    assert moved["lora"] == (2 * 2 * model.parameters + 4 * adapter) / 2
    assert moved["qlora"] == (2 * 2 * outside + 4 * adapter) / 2  # what is in NF4 is whole everywhere


def test_a_window_bounds_attention() -> None:
    windowed = models.read("bigcode/starcoder2-3b")
    assert windowed.window is not None
    beyond = duration.forward_operations(windowed, windowed.window * 2)
    assert beyond == duration.forward_operations(windowed, windowed.window)
