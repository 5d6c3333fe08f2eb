"""`fimble train --preset`."""

from __future__ import annotations

from tests.toolchain.conftest import Fimble
from train import presets

LORA = ("train", "data", "--out", "x", "--preset", "starcoderbase-1b-lora")


def test_presets_are_listed(fimble: Fimble) -> None:
    listed = fimble("train", "--preset", "list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == presets.names()
    fimble(*LORA[:-1], "nope").refused("there is no preset 'nope'", "Known: ")


def test_a_base_is_the_flags_or_the_presets(fimble: Fimble) -> None:
    fimble(*LORA[:-2]).refused("there is no base to train", "--preset")
    fimble(*LORA, "--base", "./nowhere").refused("the base ./nowhere is neither a folder nor a hub id")
    fimble(*LORA, "--base", "scratch").refused("--preset has no effect with --base scratch")
