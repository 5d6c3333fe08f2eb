"""Settings from `fimble.toml` and from flags: what is of the wrong type is named as the user wrote it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from compile.settings import CompileSettings
from serve.settings import ServeSettings
from tests.toolchain.conftest import Fimble
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose, suggest
from train.data.settings import CollectSettings, DialogueSettings
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

KINDS: dict[str, type] = {
    "collect": CollectSettings,
    "dialogues": DialogueSettings,
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
    ("train", "method", "qlara", "one of: lora, qlora, full"),
    ("train", "method", ["lora"], "one of: lora, qlora, full"),
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


FILES = [
    ("train = 5", "'train' in {file} is no table. Write [train], and its settings below it."),
    (
        "[merge]",
        "{file} has an unknown table or key 'merge'. Known: up, collect, dialogues, scratch, train, compile, serve.",
    ),
    ("[trian]", "{file} has an unknown table or key 'trian'. Did you mean 'train'?"),
    ("[train]\nmax-stepps = 1", "unknown key 'max-stepps' in [train] of {file}. Did you mean 'max_steps'?"),
    ('[train]\nlearning_rate = "1e-3"', "learning_rate in [train] of {file} cannot be '1e-3'. Use a number."),
    ("[train]\nlearning_rate = -1", "learning_rate in [train] of {file} cannot be -1.0. Use a number above 0."),
    (
        "[train]\nmax-steps = 1\nmax_steps = 2",
        "max-steps and max_steps in [train] of {file} are one setting. Remove one",
    ),
    (
        '[train]\nmethod = "full"\ndora = true',
        "dora in [train] of {file} has no effect with method full. Leave one of them out",
    ),
    ("[scratch]\nlayers = 0", "layers in [scratch] of {file} cannot be 0. Use a whole number of 1 or more."),
    ("[collect]\nmax_file_bytes = 1.5", "max_file_bytes in [collect] of {file} cannot be 1.5. Use a whole number."),
    ('[compile]\ntarget = ["nope"]', "unknown target 'nope', in [compile] of {file}."),
    ("[serve]\nport = 99999999", "port in [serve] of {file} cannot be 99999999."),
    ('[serve]\nwithout = ["loops"]', "without in [serve] of {file} cannot be 'loops'. Use names of rules: control,"),
    ("= 5", "{file} is not valid TOML"),
]


@pytest.mark.parametrize(("content", "message"), FILES)
def test_whatever_is_wrong_in_the_file_is_told_by_every_command(
    fimble: Fimble, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "fimble.toml"
    file.write_text(content, encoding="utf-8")
    for line in (("collect", ".", "--out", "data"), ("serve", "bundle")):
        fimble(*line).refused(message.format(file=file))


def test_a_folder_in_the_place_of_the_file(fimble: Fimble, tmp_path: Path) -> None:
    (tmp_path / "fimble.toml").mkdir()
    fimble("collect", ".", "--out", "data").refused(f"{tmp_path / 'fimble.toml'} cannot be read (Is a directory)")


def test_a_flag_is_not_blamed_on_the_file() -> None:
    tables = {"train": {"max-steps": 7}}
    with pytest.raises(SettingsError, match=r"^--learning-rate cannot be -1\.0"):
        choose(TrainSettings, "train", tables, {"learning_rate": -1})
    with pytest.raises(SettingsError, match=r"^--max-steps cannot be 0"):
        choose(TrainSettings, "train", tables, {"max_steps": 0})


def test_a_flag_that_contradicts_the_file_is_told_beside_it() -> None:
    message = r"^--dora has no effect with method full in \[train\] of fimble\.toml\. "
    with pytest.raises(SettingsError, match=message):
        choose(TrainSettings, "train", {"train": {"method": "full"}}, {"dora": True})
    with pytest.raises(SettingsError, match=r"^dora in \[train\] of fimble\.toml has no effect with --method full\. "):
        choose(TrainSettings, "train", {"train": {"dora": True}}, {"method": "full"})


def test_a_misspelt_name_has_a_suggestion() -> None:
    assert suggest("max_stepps", ["max_steps", "seed"]) == "Did you mean 'max_steps'?"
    assert suggest("entirely", {"one": 1, "two": 2}) == "Known: one, two."
    assert suggest("merge", ["train", "serve"]) == "Known: train, serve."
