from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose
from train.scratch_settings import FOR_SCRATCH, ScratchSettings
from train.settings import TrainSettings

pytestmark = pytest.mark.train

BAD: list[tuple[str, Any]] = [
    ("sequence_length", 8),
    ("max_steps", 0),
    ("max_epochs", 0),
    ("batch_size", 0),
    ("gradient_accumulation", -1),
    ("learning_rate", 0),
    ("learning_rate", float("nan")),
    ("warmup_steps", -1),
    ("weight_decay", -0.1),
    ("max_gradient_norm", 0),
    ("fim_rate", 1.5),
    ("spm_rate", -0.5),
    ("lora_rank", 0),
    ("lora_alpha", 0),
    ("lora_dropout", 1.0),
    ("evaluate_every", 0),
    ("evaluate_sequences", 0),
    ("patience", 0),
    ("save_every", 0),
    ("seed", -1),
    ("seed", 1 << 32),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_by_its_flag(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')}"):
        TrainSettings(**{name: value})


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("--lora-target has no effect", {"method": "full", "lora_target": ("c_proj",)}),
        ("--lora-rank has no effect with --method full", {"method": "full", "lora_rank": 4}),
        ("--lora-alpha has no effect with --method full", {"method": "full", "lora_alpha": 4}),
        ("--lora-dropout has no effect with --method full", {"method": "full", "lora_dropout": 0.1}),
        ("--cuts has no effect with --fim-rate 0", {"fim_rate": 0.0, "cuts": "syntax"}),
        ("--spm-rate has no effect with --fim-rate 0", {"fim_rate": 0.0, "spm_rate": 1.0}),
        ("--chat-template has no effect with --objective fim", {"chat_template": "base"}),
        ("--cuts has no effect with --objective chat", {"objective": "chat", "cuts": "lines"}),
        ("--warmup-steps 40 is more than --max-steps 20", {"warmup_steps": 40, "max_steps": 20}),
        ("--rslora has no effect", {"method": "full", "rslora": True}),
        ("--dora has no effect", {"method": "full", "dora": True}),
        ("--init has no effect", {"method": "full", "init": "pissa"}),
        ("--init pissa takes a part out of the base", {"method": "qlora", "init": "pissa"}),
        ("--init pissa with --dora", {"init": "pissa", "dora": True}),
    ],
)
def test_contradictions_are_refused(message: str, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocabulary", 1),
        ("hidden_size", 0),
        ("hidden_size", 100),
        ("layers", 0),
        ("context_size", 8),
        ("max_steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("evaluate_every", 0),
        ("evaluate_sequences", 0),
        ("seed", -1),
    ],
)
def test_a_bad_value_for_scratch_is_named_by_its_key_because_most_have_no_flag(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        choose(ScratchSettings, "scratch", {"scratch": {name: value}}, {})
    assert caught.value.message == f"{name} in [scratch] of fimble.toml cannot be {value!r}"


def test_a_warm_up_longer_than_the_training_of_scratch_is_refused_by_its_keys() -> None:
    with pytest.raises(SettingsError, match=r"warmup_steps 9 in \[scratch\] of fimble.toml is more than max_steps 8"):
        choose(ScratchSettings, "scratch", {"scratch": {"warmup_steps": 9, "max_steps": 8}}, {})
    assert ScratchSettings(max_steps=8).training().warmup_steps == 8


@pytest.mark.parametrize("values", [{"max_steps": 3}, {"method": "full"}, {"fim_rate": 0.0}, {"objective": "chat"}])
def test_a_default_contradicts_nothing(values: dict[str, Any]) -> None:
    TrainSettings(**values)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_settings_for_another_method_leave_out_what_would_do_nothing(method: Any) -> None:
    settings = TrainSettings(lora_rank=4, lora_dropout=0.1, init="pissa", lora_target=("c_proj",), batch_size=3)
    changed = settings.with_method(method)
    assert (changed.method, changed.batch_size) == (method, 3)
    assert changed.lora_rank == (8 if method == "full" else 4)
    assert changed.with_method(method) == changed


def test_each_method_has_its_own_learning_rate() -> None:
    assert TrainSettings().peak_learning_rate == 5e-4
    assert TrainSettings(method="full").peak_learning_rate == 5e-5
    assert TrainSettings(learning_rate=1e-3).peak_learning_rate == 1e-3


def test_the_values_for_scratch_fit_the_scratch_model() -> None:
    assert TrainSettings(**FOR_SCRATCH).sequence_length <= ScratchSettings().context_size


def test_settings_and_bases_load_without_the_heavy_libraries() -> None:
    modules = "train.settings, train.bases.base, train.fine_tune, train.scratch, train.adapters.merge"
    heavy = "{'torch', 'transformers', 'peft', 'datasets', 'tokenizers', 'huggingface_hub'}"
    code = f"import sys, {modules}; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
