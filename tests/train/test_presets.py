"""Presets: the reference's values, under what the user sets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose
from train import presets
from train.defaults import beneath
from train.launch.settings import LaunchSettings, refuse_alone
from train.scratch_settings import FOR_SCRATCH
from train.settings import TrainSettings

COMMON: dict[str, Any] = {
    "sequence_length": 2048,
    "max_steps": 2000,
    "schedule": "cosine",
    "warmup_steps": 30,
    "weight_decay": 0.01,
    "evaluate_every": 100,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "fim_rate": 0.5,
    "spm_rate": 0.5,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "starcoder-qlora-a100-40gb": COMMON
    | {"method": "qlora", "batch_size": 4, "gradient_accumulation": 4, "learning_rate": 5e-4}
    | {"lora_rank": 32, "lora_alpha": 64, "lora_dropout": 0.0},
    "starcoder-full-fsdp-8xa100-80gb": COMMON
    | {"method": "full", "batch_size": 1, "gradient_accumulation": 2, "learning_rate": 5e-5},
    "starcoderbase-1b-lora": COMMON
    | {"method": "lora", "batch_size": 8, "gradient_accumulation": 2, "learning_rate": 5e-4}
    | {"lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.0},
    "starcoderbase-1b-full": COMMON
    | {"method": "full", "batch_size": 8, "gradient_accumulation": 2, "learning_rate": 5e-5},
    "starcoderplus-chat-qlora": {
        "objective": "chat",
        "method": "qlora",
        "optimizer": "paged_adamw_32bit",
        "batch_size": 8,
        "gradient_accumulation": 2,
        "learning_rate": 2e-4,
        "sequence_length": 2048,
        "max_steps": 1000,
        "schedule": "constant",
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_values(name: str) -> None:
    assert dict(presets.load(name).train) == PUBLISHED[name]


@pytest.mark.parametrize("name", presets.names())
def test_what_a_preset_asks_for_is_taken(name: str) -> None:
    preset = presets.load(name)
    assert preset.about
    assert preset.source
    made = dataclasses.asdict(choose(TrainSettings, "train", {}, presets.beneath(preset, {}, {})))
    assert made == {**made, **preset.train}


def test_flags_come_before_the_file_the_file_before_the_preset_and_the_preset_before_the_defaults() -> None:
    tables = {"train": {"max-steps": 7, "lora-rank": 4}, "serve": {"port": 80}}
    flags = {"max_steps": 3, "lora_alpha": None}
    flags = presets.beneath(presets.load("qwen2.5-coder-1.5b-lora"), tables, flags)
    made = choose(TrainSettings, "train", tables, flags)
    assert (made.max_steps, made.lora_rank, made.learning_rate, made.seed) == (3, 4, 2e-4, TrainSettings().seed)


OVERRIDES: dict[str, Any] = {
    "objective": ("fim", "chat"),
    "method": ("lora", "qlora", "full"),
    "sequence_length": (1024,),
    "max_steps": (1,),
    "warmup_steps": (0, 1000),
    "fim_rate": (0.0, 1.0),
    "lora_rank": (4,),
    "lora_dropout": (0.2,),
    "cuts": ("lines",),
    "chat_template": ("reference",),
}


@pytest.mark.parametrize("name", presets.names())
def test_each_setting_of_a_preset_gives_way_to_the_users(name: str) -> None:
    """Only what the user gave can contradict itself; here each is given alone, with what it needs."""
    preset, needed = presets.load(name), {"cuts": {"objective": "fim"}, "fim_rate": {"objective": "fim"}}
    needed |= {"chat_template": {"objective": "chat"}, "lora_rank": {"method": "lora"}}
    needed |= {"lora_dropout": {"method": "qlora"}}
    for setting, values in OVERRIDES.items():
        for value in values:
            given = {**needed.get(setting, {}), setting: value}
            made = choose(TrainSettings, "train", {}, presets.beneath(preset, {}, given))
            assert getattr(made, setting) == value
            assert made == choose(
                TrainSettings,
                "train",
                {"train": {key.replace("_", "-"): v for key, v in given.items()}},
                presets.beneath(preset, {"train": {key.replace("_", "-"): v for key, v in given.items()}}, {}),
            )


def test_another_method_has_its_own_learning_rate_and_keeps_what_it_can() -> None:
    qlora, full = presets.load("starcoder-qlora-a100-40gb"), presets.load("starcoderbase-1b-full")
    made = choose(TrainSettings, "train", {}, presets.beneath(qlora, {}, {"method": "full"}))
    assert (made.peak_learning_rate, made.lora_rank, made.batch_size) == (5e-5, TrainSettings().lora_rank, 4)
    assert choose(TrainSettings, "train", {}, presets.beneath(qlora, {}, {"method": "lora"})).lora_rank == 32
    assert choose(TrainSettings, "train", {}, presets.beneath(full, {}, {"method": "lora"})).peak_learning_rate == 5e-4
    given = {"method": "full", "learning_rate": 1e-5, "lora_rank": 16}
    with pytest.raises(SettingsError, match="--lora-rank has no effect with --method full"):
        choose(TrainSettings, "train", {}, presets.beneath(qlora, {}, given))


def test_a_preset_for_several_gpus_does_not_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = presets.load("starcoder-full-fsdp-8xa100-80gb")
    with pytest.raises(SettingsError, match=r"is for 8 GPUs.*--launcher torchrun --count 8"):
        refuse_alone(wide.name, wide.count, LaunchSettings())
    refuse_alone(wide.name, wide.count, LaunchSettings(launcher="torchrun", count=4))
    refuse_alone("another", 1, LaunchSettings())
    monkeypatch.setenv("WORLD_SIZE", "8")
    refuse_alone(wide.name, wide.count, LaunchSettings())


def test_a_misspelt_preset_has_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'starcoderbase-1b-lora'"):
        presets.load("starcoderbase-1b-lara")


def test_what_is_sized_for_scratch_gives_way_under_either_spelling() -> None:
    tables = {"train": {"max-steps": 5, "batch_size": 2}}
    flags = beneath(FOR_SCRATCH, tables["train"], {"method": "full", "seed": None})
    assert not {"lora_rank", "warmup_steps", "max_steps", "batch_size", "seed"} & set(flags)
    made = choose(TrainSettings, "train", tables, flags)
    assert (made.max_steps, made.batch_size, made.sequence_length) == (5, 2, FOR_SCRATCH["sequence_length"])
