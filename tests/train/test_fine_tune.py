"""Training really lowers the held-out loss, and what it writes is what other tools read."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import FULL, LORA, SHAPE, Lines, load, opened, weights_in, write_base
from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, SettingsError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train
from train.learning import steps_for
from train.run import loop
from train.run.schedule import learning_rate
from train.settings import TrainSettings

pytestmark = pytest.mark.train

METHODS = [pytest.param(LORA, id="lora"), pytest.param(FULL, id="full")]


@pytest.mark.parametrize("settings", METHODS)
def test_training_lowers_the_held_out_loss(
    dataset: Path, base_folder: Path, undisturbed: dict[str, Path], settings: TrainSettings
) -> None:
    made = manifest.read(undisturbed[settings.method])
    facts = made.facts
    assert made.kind == ("adapter" if settings.method == "lora" else "checkpoint")
    assert [(parent.kind, parent.role) for parent in made.parents] == [("dataset", "dataset"), ("checkpoint", "base")]
    start, end = facts["held_out"]["start"], facts["held_out"]["end"]
    assert end["loss"] < start["loss"] - (0.04 if settings.method == "lora" else 0.7)
    assert end["bits_per_byte"] < start["bits_per_byte"]
    assert [point["step"] for point in facts["loss_curve"]] == [0, 4, 8, 12]
    assert facts["fim"]["prefix"] == "<fim_prefix>"
    assert facts["steps"] == 12
    assert 12 * 4 * 64 < facts["tokens_seen"] / settings.gradient_accumulation <= 12 * 4 * 128
    total = sum(weight.numel() for weight in weights_in(undisturbed[settings.method]).values())
    assert facts["trained_parameters"] == total
    assert len({path.stat().st_mode for path in undisturbed[settings.method].iterdir()}) == 1  # for the same readers
    assert not manifest.verify(undisturbed[settings.method])


def test_the_adapter_is_in_the_layout_of_peft(base_folder: Path, undisturbed: dict[str, Path]) -> None:
    from peft import PeftModel

    out = undisturbed["lora"]
    names = {path.name for path in out.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-base"
    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    ids = torch.arange(5, 45)[None]
    plain = load(base_folder)
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, out)(ids).logits
    assert float((before - after).abs().max()) > 1e-2


def test_the_checkpoint_is_in_the_layout_of_transformers(base_folder: Path, undisturbed: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    out = undisturbed["full"]
    tuned, base = load(out), load(base_folder)
    assert tuned.state_dict().keys() == base.state_dict().keys()
    assert (
        AutoTokenizer.from_pretrained(out)("x = 1").input_ids
        == AutoTokenizer.from_pretrained(base_folder)("x = 1").input_ids
    )
    base = opened(out)
    assert base.name == "tiny-base"


@pytest.mark.parametrize("named", [None, "float33"])
def test_a_checkpoint_keeps_the_dtype_of_its_bases_weights_whatever_the_configuration_says(
    dataset: Path, tmp_path: Path, named: str | None
) -> None:
    folder = write_base(tmp_path / "base", torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps(config | ({"torch_dtype": named} if named else {})))
    settings = replace(FULL, max_steps=1, warmup_steps=1, batch_size=2, gradient_accumulation=1, evaluate_sequences=2)
    execute(plan_train(dataset, opened(folder), settings), tmp_path / "out", Silent())
    assert {weight.dtype for weight in weights_in(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_written_names_a_path_of_this_machine(
    dataset: Path, base_folder: Path, undisturbed: dict[str, Path]
) -> None:
    for folder in undisturbed.values():
        for path in folder.iterdir():
            content = path.read_bytes()
            assert str(base_folder).encode() not in content, path
            assert str(folder.parent).encode() not in content, path
            assert str(Path.home()).encode() + b"/" not in content, path


def test_the_best_weights_are_kept_and_patience_ends_the_run(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    # With such a rate the model is at its best early, and then gets worse.
    settings = replace(
        FULL, learning_rate=0.3, schedule="constant", evaluate_every=1, patience=3, max_steps=30, warmup_steps=0
    )
    listener = Lines()
    made = execute(plan_train(dataset, opened(base_folder), settings), tmp_path / "out", listener)
    curve = [point["loss"] for point in made.facts["loss_curve"]]
    best = made.facts["held_out"]["end"]["step"]
    assert curve[best] == min(curve)
    assert made.facts["steps"] == best + 3 == len(curve) - 1
    assert any(line.startswith(f"kept the weights of step {best}") for line in listener.lines)
    # The weights themselves are the kept ones: measured as a base, they start where the best evaluation was.
    again = execute(
        plan_train(dataset, opened(tmp_path / "out"), replace(FULL, max_steps=1, warmup_steps=1)),
        tmp_path / "again",
        Silent(),
    )
    assert again.facts["held_out"]["start"]["loss"] == pytest.approx(min(curve), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "left"), [(LORA, "the adapter changes nothing"), (FULL, "the model is as it was")]
)
def test_a_training_that_was_of_no_use_says_so(
    dataset: Path,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: TrainSettings,
    left: str,
) -> None:
    original, calls = loop.score, itertools.count()
    monkeypatch.setattr(loop, "score", lambda *given: replace(original(*given), loss=5.0 + next(calls)))
    listener = Lines()
    plan = plan_train(dataset, opened(base_folder), replace(settings, max_steps=2, evaluate_every=1))
    made = execute(plan, tmp_path / "out", listener)
    assert made.facts["held_out"]["end"]["step"] == 0
    assert f"warning: no step lowered the held-out loss: {left}" in listener.lines


def test_targets_that_match_nothing_are_refused(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    settings = replace(LORA, lora_target=("c_attn", "k_proj"))
    with pytest.raises(SettingsError, match="k_proj") as caught:
        execute(plan_train(dataset, opened(base_folder), settings), tmp_path / "out", Silent())
    assert "c_attn, c_fc, c_proj" in caught.value.next_step


def test_only_a_dataset_is_trained_on(base_folder: Path, undisturbed: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match="adapter, not a dataset"):
        plan_train(undisturbed["lora"], opened(base_folder), LORA)


def test_a_weight_that_is_missing_is_not_made_up(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = shutil.copytree(base_folder, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lacks the weight transformer\.h\.1\.mlp\.c_fc\.weight"):
        execute(plan_train(dataset, opened(folder), LORA), tmp_path / "out", Silent())


def test_gradient_checkpointing_and_bfloat16_change_memory_and_speed_and_not_the_result(
    dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    # Without dropout, whose draws differ between dtypes.
    plain = replace(LORA, max_steps=2, batch_size=2, evaluate_sequences=2, lora_dropout=0.0, learning_rate=2e-3)
    runs = []
    for number, change in enumerate(({}, {"gradient_checkpointing": True}, {"dtype": "bfloat16"})):
        plan = plan_train(dataset, opened(base_folder), replace(plain, **change))
        runs.append(execute(plan, tmp_path / str(number), Silent()).facts["held_out"])
    exact, recomputed, rounded = runs
    for moment in ("start", "end"):
        assert recomputed[moment]["loss"] == pytest.approx(exact[moment]["loss"], abs=1e-5)
        assert rounded[moment]["loss"] == pytest.approx(exact[moment]["loss"], abs=5e-3)
    assert rounded["start"] != exact["start"]  # it really was computed in bfloat16


def test_passes_over_a_small_dataset_are_bounded() -> None:
    settings = replace(LORA, max_steps=1000, max_epochs=2)
    assert steps_for(tokens=128 * 4 * 10, length=128, settings=settings) == 20
    assert steps_for(tokens=10**9, length=128, settings=settings) == 1000
    assert steps_for(tokens=1, length=128, settings=settings) == 1


def test_the_learning_rate_rises_and_falls() -> None:
    settings = replace(LORA, learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(step, 100, settings) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(55, 100, replace(settings, schedule="constant")) == 1.0
    assert SHAPE.training().peak_learning_rate == SHAPE.learning_rate
