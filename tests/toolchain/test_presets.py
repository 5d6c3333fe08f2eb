"""`fimble train --preset` and `fimble up --preset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.conftest import Fimble
from toolchain.contracts.errors import Interrupted
from toolchain.contracts.settings import choose
from train import presets
from train.settings import TrainSettings

LORA = ("train", "data", "--out", "x", "--preset", "starcoderbase-1b-lora")


def test_presets_are_listed(fimble: Fimble) -> None:
    listed = fimble("train", "--preset", "list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == presets.names()
    fimble(*LORA[:-1], "nope").refused("there is no preset 'nope'", "Known: ")


def test_a_base_is_the_flags_or_the_presets(fimble: Fimble) -> None:
    fimble(*LORA[:-2]).refused("there is no base to train", "--preset")
    fimble(*LORA, "--base", "./nowhere").refused("the base ./nowhere is neither a folder nor a hub id")
    fimble(*LORA, "--base", "scratch").refused("--preset has no effect with the base scratch")


def test_up_takes_base_and_training_of_a_preset_under_the_users_own(
    fimble: Fimble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def up(sources: object, out: object, tables: dict[str, Any], flags: dict[str, Any], progress: object) -> None:
        asked.append((tables, flags))
        raise Interrupted

    monkeypatch.setattr("toolchain.pipeline.up", up)
    (tmp_path / "fimble.toml").write_text("[train]\nbatch-size = 3\n")
    words = ("up", "src", "--no-serve", "--preset", LORA[-1])
    fimble(*words, "--max-steps", 7)
    (tables, flags) = asked.pop()
    assert (flags["base"], flags["max_steps"]) == ("bigcode/starcoderbase-1b", 7)
    chosen = choose(TrainSettings, "train", tables, flags)
    assert tables == {"train": {"batch-size": 3}}
    assert (chosen.batch_size, chosen.max_steps, chosen.lora_alpha) == (3, 7, 32)
    (tmp_path / "fimble.toml").write_text('[up]\nbase = "./mine"\n')
    fimble(*words)
    assert asked.pop()[1]["base"] == "./mine"
    (tmp_path / "fimble.toml").write_text('[up]\nbase = "scratch"\n')
    fimble(*words).refused("--preset has no effect with the base scratch")
    fimble(*words[:-1], "starcoder-full-fsdp-8xa100-80gb", "--base", "./mine").refused("is for 8 GPUs", "--launcher")
    assert not asked
