"""Every method lowers the held-out loss on real code, and its adapter merges into the base's own 16-bit weights."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.samples.chatting import write_dialogues
from tests.train.tiny import (
    FULL,
    LORA,
    failed_and_resumed,
    held_out_loss,
    load,
    opened,
    reopened,
    same,
    without,
    write_base_without_fim,
)
from toolchain.contracts import manifest
from toolchain.contracts.errors import MissingExtra
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.adapters.merge import plan_merge
from train.bases import models, quantization
from train.fine_tune import plan_train
from train.settings import TrainSettings

pytestmark = pytest.mark.train

QLORA = replace(LORA, method="qlora", dtype="float32")
METHODS = {
    "qlora": QLORA,
    "rslora": replace(LORA, rslora=True, learning_rate=1e-2),
    "dora": replace(LORA, dora=True),
    "qlora-dora": replace(QLORA, dora=True),
    "pissa": replace(LORA, init="pissa", lora_dropout=0.0),
    "pissa-rslora": replace(LORA, init="pissa", rslora=True, lora_dropout=0.0, learning_rate=1e-2),
}
KILLED = {
    "lora": replace(LORA, max_steps=60, save_every=2),
    "qlora": replace(QLORA, max_steps=60, save_every=2),
    "full": replace(FULL, max_steps=60, save_every=2),
    "chat": replace(
        QLORA, objective="chat", optimizer="adamw_8bit", lora_rank=64, max_steps=60, save_every=2, schedule="constant"
    ),
    "added tokens": replace(LORA, add_fim_tokens=True, max_steps=60, save_every=2),
}
IDS = torch.arange(5, 85)[None]


@pytest.fixture(scope="module")
def trained(dataset: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("methods")
    for name, settings in METHODS.items():
        execute(plan_train(dataset, opened(base_folder), settings), folder / name, Silent())
    return {name: folder / name for name in METHODS}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@pytest.mark.parametrize("name", METHODS)
def test_the_held_out_loss_goes_down(trained: dict[str, Path], name: str) -> None:
    facts = manifest.read(trained[name]).facts
    held_out = facts["held_out"]
    assert held_out["end"]["loss"] < held_out["start"]["loss"] - 0.03
    weights = load_file(trained[name] / "adapter_model.safetensors")
    factor = 2 if name.startswith("pissa") else 1
    assert sum(weight.numel() for weight in weights.values()) == factor * facts["trained_parameters"]
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_the_base_of_qlora_really_is_nf4(base_folder: Path, trained: dict[str, Path]) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    config = quantization.nf4(torch.float32)
    model = models.open_model(base_folder, torch.float32, torch.device("cpu"), quantization=config)
    plain = dict(load(base_folder).named_modules())
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(layers) == 8
    for name, layer in layers.items():
        weight, state = layer.weight, layer.weight.quant_state
        assert state.quant_type == "nf4"
        assert state.nested
        assert weight.numel() * weight.element_size() * 2 == plain[name].weight.numel()
        levels = dequantize_4bit(weight.data, state).flatten()[:64]
        assert len(levels.unique()) <= 16
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    facts = manifest.read(trained["qlora"]).facts["quantized_base"]
    assert facts == quantization.described(model)
    assert facts["layers"] == 8
    kept = sum(p.numel() for n, p in load(base_folder).named_parameters() if n.removesuffix(".weight") not in layers)
    assert facts["parameters_kept"] == kept


def test_what_lies_between_blocks_is_in_16_bits_though_a_gpu_computes_layer_norms_in_32(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast's layer norm on a GPU, in place of the processor's, which keeps to 16 bits."""

    def as_on_a_gpu(self: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            weight, bias = self.weight.float(), self.bias.float()
            return torch.nn.functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", as_on_a_gpu)
    narrow = torch.bfloat16
    found = []
    for keeping in (False, True):
        config = quantization.nf4(narrow)
        model = models.open_model(base_folder, narrow, torch.device("cpu"), quantization=config)
        if keeping:
            quantization.keep_narrow(model, narrow)
        model = models.with_adapter(model, QLORA, ("c_attn", "c_fc", "c_proj"), "tiny").train()
        for block in model.get_base_model().transformer.h:
            block.register_forward_hook(
                lambda _, given, out: found.append((out[0] if isinstance(out, tuple) else out).dtype)
            )
        with torch.autocast("cpu", narrow):
            model(IDS)
    assert found == [torch.float32, torch.float32, narrow, narrow]


@pytest.mark.parametrize("name", METHODS)
def test_the_adapter_merges_into_the_base_as_peft_merges_it(
    base_folder: Path, trained: dict[str, Path], tmp_path: Path, name: str
) -> None:
    from peft import PeftModel

    execute(plan_merge(trained[name], opened(base_folder)), tmp_path / "merged", Silent())
    base = logits(load(base_folder))
    adapted = PeftModel.from_pretrained(load(base_folder), trained[name])
    expected = logits(adapted)
    change = float((expected - base).abs().max())
    rounding = 3e-3  # of the weights to float16
    assert change > 10 * rounding
    assert float((logits(load(tmp_path / "merged")) - expected).abs().max()) < rounding
    assert float((logits(adapted.merge_and_unload()) - expected).abs().max()) < 1e-4


def test_a_qlora_adapter_holds_on_the_base_it_was_not_trained_over(
    base_folder: Path, trained: dict[str, Path], tmp_path: Path, dataset: Path
) -> None:
    """The held-out loss of the merged checkpoint, measured as a base, is the one at the training's end."""
    execute(plan_merge(trained["qlora"], opened(base_folder)), tmp_path / "merged", Silent())
    settings = replace(LORA, max_steps=1, warmup_steps=1, evaluate_every=1)
    again = execute(plan_train(dataset, opened(tmp_path / "merged"), settings), tmp_path / "again", Silent())
    held_out = manifest.read(trained["qlora"]).facts["held_out"]
    gain = held_out["start"]["loss"] - held_out["end"]["loss"]
    assert again.facts["held_out"]["start"]["loss"] == pytest.approx(held_out["end"]["loss"], abs=0.2 * gain)


def test_a_pissa_adapter_is_a_plain_one_of_the_original_base(trained: dict[str, Path]) -> None:
    config = json.loads((trained["pissa"] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (16, 64, True)
    weights = load_file(trained["pissa"] / "adapter_model.safetensors")
    assert {weight.shape[0] for name, weight in weights.items() if "lora_A" in name} == {16}


@pytest.mark.parametrize("name", ["qlora", "pissa"])
def test_an_interrupted_run_ends_with_the_same_bits(
    dataset: Path, base_folder: Path, trained: dict[str, Path], tmp_path: Path, name: str
) -> None:
    plan = plan_train(dataset, opened(base_folder), METHODS[name])
    resumed = failed_and_resumed(plan, tmp_path / "out")
    assert "Resuming after step 9 of 12" in resumed.lines
    assert same(tmp_path / "out", trained[name])


def test_without_bitsandbytes_qlora_is_refused_before_the_work(
    dataset: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "bitsandbytes")
    with pytest.raises(MissingExtra, match="bitsandbytes is not installed"):
        plan_train(dataset, opened(base_folder), TrainSettings(method="qlora"))


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_is_what_was_measured(
    dataset: Path, base_folder: Path, trained: dict[str, Path], tmp_path: Path, name: str
) -> None:
    base = opened(base_folder)
    losses = reopened(base, trained[name], METHODS[name])
    ended = manifest.read(trained[name]).facts["held_out"]["end"]["loss"]
    assert held_out_loss(losses, base, dataset, METHODS[name], tmp_path) == pytest.approx(ended, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_run_killed_at_three_random_moments_ends_with_the_same_bits(
    dataset: Path, base_folder: Path, tmp_path: Path, name: str
) -> None:
    dataset = write_dialogues(tmp_path / "dialogues") if name == "chat" else dataset
    clock = tmp_path / "clock"
    base = write_base_without_fim(tmp_path / "base") if KILLED[name].add_fim_tokens else base_folder

    def begin(out: Path) -> subprocess.Popen[bytes]:
        clock.unlink(missing_ok=True)
        arguments = [str(path) for path in (dataset, base, out, clock)]
        process = subprocess.Popen([sys.executable, "-m", "tests.train.run.killed", *arguments, name])
        while not clock.exists() and process.poll() is None:
            time.sleep(0.001)
        return process

    undisturbed = begin(tmp_path / "undisturbed")
    start = time.monotonic()
    while not (tmp_path / "undisturbed").exists() and undisturbed.poll() is None:
        time.sleep(0.001)
    whole = time.monotonic() - start
    assert undisturbed.wait() == 0

    def killed(out: Path, seconds: float) -> bool:
        """Whether a run that writes `out` was killed, so long after it had a state to go on from."""
        process = begin(out)
        while not any(tmp_path.glob(f".{out.name}.work/state-*")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
        return process.wait() == -signal.SIGKILL and not out.exists()

    for attempt in range(4):  # a kill comes too late where the machine has become faster meanwhile
        out, moments = tmp_path / f"out-{attempt}", [random.uniform(0, 0.25) / 2**attempt for _ in range(3)]
        print(f"killed after {moments} of {whole:.1f} s")
        if all(killed(out, whole * moment) for moment in moments):
            break
    else:
        pytest.fail("no run was killed three times")
    assert begin(out).wait() == 0
    assert same(out, tmp_path / "undisturbed")
    assert manifest.read(out).digest == manifest.read(tmp_path / "undisturbed").digest
