"""Memory before activations, beside the reference's figures, models on the meta device and bitsandbytes."""

from __future__ import annotations

import pytest

from toolchain.planning import gpus, layers, memory, models, published
from toolchain.planning.command import settings_for
from train import presets
from train.settings import TrainSettings

QLORA, FSDP = published.RUNS

COUNTS = [("bigcode/starcoder", 32, 110_428_160, 15_627_884_544)] + [
    ("bigcode/starcoderbase-1b", rank, trained, 1_137_207_296 + trained)
    for rank, trained in ((32, 22_216_704), (8, 5_554_176))
]


@pytest.mark.parametrize(("base", "rank", "trained", "total"), COUNTS)
def test_parameters_as_the_reference_counts_them(base: str, rank: int, trained: int, total: int) -> None:
    model = models.read(base)
    assert layers.adapter_parameters(model, rank) == trained
    assert model.parameters + trained == total


def test_the_references_rule_of_thumb() -> None:
    model = models.read("bigcode/starcoder")
    full = memory.rule_of_thumb("full", model.parameters, model.parameters)
    assert round(full / 1e9) == 248
    adapter = layers.adapter_parameters(model, 32)
    # The reference rounds 15.517 billion to 15.51 and adds up rounded terms.
    assert memory.rule_of_thumb("qlora", model.parameters, adapter) / 1e9 == pytest.approx(9.51, abs=0.02)


def test_the_published_qlora_memory() -> None:
    preset = presets.load(QLORA)
    parts = published.terms(models.read(preset.base), settings_for(preset), preset.count)
    assert pytest.approx(memory.total(parts), rel=0.15) == 26e9


def test_what_explains_the_published_memory_of_the_sharded_run() -> None:
    preset, run = presets.load(FSDP), published.RUNS[FSDP]
    model, settings = models.read(preset.base), settings_for(preset)
    ours, theirs = memory.terms(model, settings, 8, on_gpu=True, number=2), published.terms(model, settings, 8)
    states = sum(part.bytes for part in ours[:3])
    assert states == 16 * model.parameters / 8
    assert memory.total(theirs) < run.gigabytes[0] * 1e9 < gpus.find(preset.gpu).memory
    spent = published.lasting(model, settings, gpus.find(preset.gpu), preset.count)
    (told,) = (line for line in published.lines(run, theirs, spent) if "not explained" in line)
    left = run.gigabytes[0] - memory.total(theirs) / 1e9
    assert f"not explained by them: {left:.1f} to {left + 7.6:.1f} GB" in told


def test_terms_shrink_with_what_they_depend_on() -> None:
    model = models.read("bigcode/starcoderbase-1b")

    def total(**changed: object) -> float:
        return memory.total(memory.terms(model, TrainSettings(**changed), 1, on_gpu=True, number=2))

    assert total(method="qlora") < total(method="lora") < total(method="full")
    assert total(gradient_checkpointing=True) < total()
    assert total(batch_size=4) < total(batch_size=8)
    assert total(sequence_length=1024) < total()
    assert total(lora_rank=8) < total(lora_rank=32)


@pytest.mark.train
def test_moments_in_8_bits_take_what_they_take_in_bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the qlora extra")
    import torch

    from train.run import optimizer
    from train.settings import TrainSettings

    weight = torch.nn.Parameter(torch.zeros(512, 300))
    made = optimizer.make({"w": weight}, TrainSettings(optimizer="adamw_8bit"))
    optimizer.prepare(made, 0)
    states = optimizer.states(made, {"w": weight})
    taken = sum(value.numel() * value.element_size() for name, value in states.items() if "qmap" not in name)
    assert taken == memory.MOMENTS_8_BITS * weight.numel()


def test_paged_moments_are_counted_where_nothing_pages_them() -> None:
    model = models.read("bigcode/starcoderbase-1b")

    def moments(optimizer: str, on_gpu: bool) -> float:
        settings = TrainSettings(optimizer=optimizer)
        (term,) = (p for p in memory.terms(model, settings, 1, on_gpu, 4) if p.name.startswith("Adam's moments"))
        return term.bytes

    assert moments("paged_adamw_32bit", on_gpu=True) == 0
    assert moments("paged_adamw_32bit", on_gpu=False) == moments("adamw", on_gpu=True) > 0
    assert moments("adamw_8bit", on_gpu=True) < 0.26 * moments("adamw", on_gpu=True)


@pytest.mark.train
@pytest.mark.parametrize(("base", "rank", "trained", "total"), COUNTS)
def test_parameters_as_training_has_them_on_the_meta_device(base: str, rank: int, trained: int, total: int) -> None:
    pytest.importorskip("peft", reason="needs the train extra")
    import torch

    from tests.toolchain.planning import shapes
    from train.bases.models import with_adapter
    from train.settings import TrainSettings

    model = shapes.build(models.known()[base], torch.bfloat16, "meta")
    adapted = with_adapter(model, TrainSettings(lora_rank=rank), models.read(base).lora_targets, base)
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) == trained
    assert sum(weight.numel() for weight in adapted.parameters()) == total


@pytest.mark.train
@pytest.mark.parametrize("base", models.known())
def test_parameters_beside_the_models_of_transformers_on_the_meta_device(base: str) -> None:
    pytest.importorskip("peft", reason="needs the train extra")
    import torch

    from tests.toolchain.planning import shapes

    model = models.read(base)
    built = shapes.build(models.known()[base], torch.bfloat16, "meta")
    assert sum(weight.numel() for weight in built.parameters()) == model.parameters
    linear = [m for m in built.modules() if isinstance(m, torch.nn.Linear) and m is not built.lm_head]
    assert sum(layer.weight.numel() for layer in linear) == layers.block_weights(model)
    adapted = shapes.with_adapter(built, model, 8)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == layers.adapter_parameters(model, 8)


@pytest.mark.train
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("family", ["gpt_bigcode", "llama", "qwen2", "starcoder2"])
def test_a_quantized_model_takes_what_it_takes_in_bitsandbytes(family: str, number: int) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the qlora extra")
    import torch

    from tests.toolchain.planning import shapes

    model = shapes.quantized(shapes.config(family, 2), torch.float32 if number == 4 else torch.bfloat16)
    taken = shapes.stored_bytes(model.parameters())
    assert taken == memory.frozen_bytes(shapes.shape(family), "qlora", number)
