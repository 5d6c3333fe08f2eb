"""Settings of compiling, and the values of generation that a user may change."""

from __future__ import annotations

import pytest

from compile.generation import VALUES, values
from compile.settings import CompileSettings
from toolchain.contracts.errors import SettingsError, UnknownTarget

pytestmark = pytest.mark.compile


def test_the_defaults_are_the_references() -> None:
    found = values(())
    assert found["temperature"] == 0.2
    assert found["repetition_penalty"] == 1.0
    assert found["max_gen_len"] == found["mean_gen_len"] == 64
    assert found.keys() == VALUES.keys()


def test_changes_are_taken_by_key() -> None:
    found = values(("temperature=0.5", "max_gen_len = 128"))
    assert found["temperature"] == 0.5
    assert found["max_gen_len"] == 128
    assert isinstance(found["max_gen_len"], int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("temprature=1", "temprature"),
        ("temperature", "key=value"),
        ("temperature=hot", "cannot be 'hot'"),
        ("temperature=-1", "cannot be -1"),
        ("temperature=nan", "cannot be nan"),
        ("top_p=0", "cannot be 0"),
        ("max_gen_len=1.5", "cannot be"),
        ("max_gen_len=0", "cannot be 0"),
    ],
)
def test_other_changes_are_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        CompileSettings(set=(change,))
    assert caught.value.next_step


def test_targets_and_architectures_are_checked() -> None:
    assert CompileSettings(target=("cpu", "x86-64-v4", "arm64-macos", "cuda", "metal", "vulkan-windows")).target
    for name in ("cuda-macos", "metal-linux", "x86-64-v9", "cuda-"):
        with pytest.raises(UnknownTarget):
            CompileSettings(target=(name,))
    with pytest.raises(SettingsError, match="sm89"):
        CompileSettings(arch=("sm89",))
