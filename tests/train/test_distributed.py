"""Two processes over gloo train what one does: parameters really sharded, the result whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import FULL, LORA, held_out_loss, load, norms_noted, opened, reopened, same
from tests.train.two_processes import job, told, torchrun
from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.planning import memory
from train import devices
from train.fine_tune import plan_train
from train.settings import TrainSettings

pytestmark = pytest.mark.train

# One process takes the steps that two share as two forward passes.
ONE = {
    "full": replace(FULL, gradient_accumulation=2, max_steps=8),
    "lora": replace(LORA, gradient_accumulation=2, lora_dropout=0.0, max_steps=8),
    "qlora": replace(LORA, method="qlora", gradient_accumulation=2, lora_dropout=0.0, max_steps=8, dtype="float32"),
    "dora": replace(LORA, gradient_accumulation=2, lora_dropout=0.0, max_steps=8, dora=True),
    "pissa": replace(LORA, gradient_accumulation=2, lora_dropout=0.0, max_steps=8, init="pissa"),
}
TWO = {name: replace(settings, gradient_accumulation=1) for name, settings in ONE.items()}


@pytest.fixture(scope="module")
def together(dataset: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("two")
    jobs = [job(name, settings) for name, settings in TWO.items()]
    jobs.append(job("bfloat16", replace(TWO["lora"], dtype="bfloat16", max_steps=2)))
    jobs.append(job("checkpointing", replace(TWO["full"], gradient_checkpointing=True)))
    assert torchrun(dataset, base_folder, work, jobs) == 0
    return work


@pytest.fixture(scope="module")
def alone(dataset: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("one")
    for name, settings in ONE.items():
        with norms_noted() as norms:
            execute(plan_train(dataset, opened(base_folder), settings), work / name, Silent())
        (work / f"{name}.json").write_text(json.dumps({"norms": norms}))
    return work


@pytest.mark.parametrize("name", ONE)
def test_two_processes_reach_the_losses_of_one(together: Path, alone: Path, name: str) -> None:
    one, two = (manifest.read(work / name).facts for work in (alone, together))
    assert [point["step"] for point in one["loss_curve"]] == [point["step"] for point in two["loss_curve"]]
    for mine, its in zip(one["loss_curve"], two["loss_curve"], strict=True):
        assert its["loss"] == pytest.approx(mine["loss"], abs=1e-3)
        assert its["bits_per_byte"] == pytest.approx(mine["bits_per_byte"], abs=1e-3)
        if mine["train_loss"] is not None:
            assert its["train_loss"] == pytest.approx(mine["train_loss"], abs=1e-3)
    assert two["held_out"]["end"]["loss"] < two["held_out"]["start"]["loss"] - 0.02
    assert one["tokens_seen"] == two["tokens_seen"]
    assert one["trained_parameters"] == two["trained_parameters"]


@pytest.mark.parametrize("name", ONE)
def test_gradients_of_two_processes_are_as_large_as_those_of_one(together: Path, alone: Path, name: str) -> None:
    one, two = (told(work, name)["norms"] for work in (alone, together))
    assert len(one) == ONE[name].max_steps
    assert two == pytest.approx(one, rel=0.01)


@pytest.mark.parametrize("name", ONE)
def test_what_is_written_is_what_was_measured(
    dataset: Path, base_folder: Path, together: Path, tmp_path: Path, name: str
) -> None:
    base = opened(base_folder)
    losses = reopened(base, together / name, ONE[name])
    ended = manifest.read(together / name).facts["held_out"]["end"]["loss"]
    assert held_out_loss(losses, base, dataset, ONE[name], tmp_path) == pytest.approx(ended, abs=1e-3)


@pytest.mark.parametrize("name", ONE)
def test_parameters_and_moments_are_sharded(together: Path, name: str) -> None:
    seen = told(together, name)
    assert seen["moments sharded"]
    assert seen["local"] == pytest.approx(seen["total"] / 2, rel=0.02)
    # bitsandbytes' packed weights stay whole in each process: half a byte for each.
    assert seen["whole"] == ([] if name != "qlora" else [n for n in seen["whole"] if "base_layer.weight" in n])
    assert any("lora_" in weight for weight in seen["sharded"]) == (name != "full")


@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_a_process_holds_the_weights_that_a_plan_counts(base_folder: Path, together: Path, name: str) -> None:
    settings = TWO[name]
    wanted = TrainSettings(method=settings.method, lora_rank=settings.lora_rank)
    number = devices.arithmetic(settings.dtype, torch.device("cpu")).itemsize
    parts = memory.terms(opened(base_folder).facts, wanted, 2, on_gpu=False, number=number)
    counted = sum(part.bytes for part in parts if part.name.startswith(("weights", "adapter")))
    assert told(together, name)["bytes"] == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("name", ONE)
def test_what_is_written_is_whole_and_reloads(base_folder: Path, together: Path, alone: Path, name: str) -> None:
    from peft import PeftModel

    folder = together / name
    assert not manifest.verify(folder)
    (file,) = folder.glob("*.safetensors")
    mine = load_file(file)
    its = load_file(alone / name / file.name)
    assert {n: w.shape for n, w in mine.items()} == {n: w.shape for n, w in its.items()}
    if name != "pissa":  # whose singular vectors may come out with either sign
        assert all(torch.allclose(weight, its[n], atol=2e-3) for n, weight in mine.items())
    one, two = (
        load(work / name) if name == "full" else PeftModel.from_pretrained(load(base_folder), work / name)
        for work in (alone, together)
    )
    ids = torch.arange(5, 85)[None]
    with torch.no_grad():
        assert float((one(ids).logits - two(ids).logits).abs().max()) < 2e-2


def test_the_arithmetic_may_be_in_bfloat16_and_activations_recomputed(together: Path) -> None:
    facts = {name: manifest.read(together / name).facts["held_out"] for name in ("lora", "bfloat16", "full")}
    assert facts["bfloat16"]["start"]["loss"] == pytest.approx(facts["lora"]["start"]["loss"], abs=5e-3)
    assert facts["bfloat16"]["start"] != facts["lora"]["start"]
    again = manifest.read(together / "checkpointing").facts["held_out"]
    assert again["end"]["loss"] == pytest.approx(facts["full"]["end"]["loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_killed_and_resumed_together_they_end_with_the_same_bits(
    dataset: Path, base_folder: Path, together: Path, tmp_path: Path, name: str
) -> None:
    for step in (4, 7):
        assert torchrun(dataset, base_folder, tmp_path, [job(name, TWO[name], kill_at=step)]) != 0
    # Alone it cannot go on: the order of its sums would be another.
    with pytest.raises(SettingsError, match="ran in 2 processes, not 1"):
        execute(plan_train(dataset, opened(base_folder), TWO[name]), tmp_path / name, Silent())
    assert torchrun(dataset, base_folder, tmp_path, [job(name, TWO[name])]) == 0
    assert "Resuming after step 6 of 8" in told(tmp_path, name)["lines"]
    assert same(tmp_path / name, together / name)
