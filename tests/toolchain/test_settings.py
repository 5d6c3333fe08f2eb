"""Settings from `fimble.toml` and from flags: what is of the wrong type is named as the user wrote it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from compile.settings import CompileSettings
from serve.settings import ServeSettings
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose, suggest
from train.data.settings import CollectSettings
from train.settings import ScratchSettings, TrainSettings

KINDS: dict[str, type] = {
    "collect": CollectSettings,
    "scratch": ScratchSettings,
    "train": TrainSettings,
    "compile": CompileSettings,
    "serve": ServeSettings,
}

WRONG: list[tuple[str, str, Any, str]] = [
    ("train", "gradient-checkpointing", "no", "true or false"),
    ("train", "gradient-checkpointing", 1, "true or false"),
    ("train", "batch_size", True, "a whole number"),
    ("train", "sequence-length", "2048", "a whole number"),
    ("train", "max-steps", 10.0, "a whole number"),
    ("train", "max-epochs", float("inf"), "a number"),
    ("train", "max-epochs", float("nan"), "a number"),
    ("train", "max-epochs", 10**400, "a number"),
    ("train", "max-epochs", False, "a number"),
    ("train", "lora-target", "c_attn", "a list of texts"),
    ("train", "lora-target", [1], "a list of texts"),
    ("train", "method", "qlora", "one of: lora, full"),
    ("train", "method", ["lora"], "one of: lora, full"),
    ("collect", "heldout-unit", "line", "one of: file, repository"),
    ("collect", "include", "*.py", "a list of texts"),
    ("scratch", "context-size", 100.5, "a whole number"),
    ("compile", "target", "cpu", "a list of texts"),
    ("serve", "port", 80.5, "a whole number"),
    ("serve", "api-key", 1234, "a text in quotes"),
]


@pytest.mark.parametrize(("table", "key", "value", "allowed"), WRONG)
def test_a_value_of_the_wrong_type_is_named_by_its_key_and_table(
    table: str, key: str, value: Any, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        choose(KINDS[table], table, {table: {key: value}}, {})
    assert caught.value.message == f"{key} in [{table}] of fimble.toml cannot be {value!r}"
    assert caught.value.next_step.startswith(f"Use {allowed}")


def test_a_flag_of_the_wrong_type_is_named_as_a_flag() -> None:
    with pytest.raises(SettingsError, match="--max-epochs cannot be inf"):
        choose(TrainSettings, "train", {}, {"max_epochs": float("inf")})
    with pytest.raises(SettingsError, match=r"--schedule cannot be 'linear'\. Use one of: cosine, constant"):
        choose(TrainSettings, "train", {}, {"schedule": "linear"})


def test_flags_come_before_the_file_and_the_file_before_the_defaults() -> None:
    tables = {"train": {"max-steps": 7, "max_epochs": 2, "lora-target": ["a", "b"]}}
    made = choose(TrainSettings, "train", tables, {"max_steps": 3, "lora_target": None, "port": 80})
    assert dataclasses.asdict(made) == dataclasses.asdict(
        TrainSettings(max_steps=3, max_epochs=2.0, lora_target=("a", "b"))
    )
    # Written as 2 or as 2.0 it is the same setting, so it has to give the same key of an artifact.
    assert isinstance(made.max_epochs, float)
    assert choose(TrainSettings, "train", tables, {"lora_target": ["c"]}).lora_target == ("c",)


def test_a_misspelt_name_has_a_suggestion() -> None:
    assert suggest("max_stepps", ["max_steps", "seed"]) == "Did you mean 'max_steps'?"
    assert suggest("entirely", {"one": 1, "two": 2}) == "Known: one, two."
