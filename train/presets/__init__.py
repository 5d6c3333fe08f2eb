"""Presets: whole trainings by name, as data. Each is a TOML file here: what it is, its base, its machine, its settings.

A preset may ask for what `TrainSettings` does not have; then it can be planned, but not run, and the refusal says what
is missing. Nothing of a preset is ever left out silently.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from toolchain.contracts import settings
from toolchain.contracts.errors import SettingsError
from train.settings import TrainSettings

SUFFIX = ".toml"


@dataclass(frozen=True)
class Preset:
    """A training by name. `train` are fields of `TrainSettings`; `gpu` and `count` say what it was made for."""

    name: str
    about: str
    source: str
    base: str
    gpu: str
    train: Mapping[str, Any]
    count: int = 1


def names() -> list[str]:
    return sorted(path.name.removesuffix(SUFFIX) for path in _folder().iterdir() if path.name.endswith(SUFFIX))


def load(name: str) -> Preset:
    """The preset called `name`. Raises SettingsError when there is none."""
    if name not in names():
        raise SettingsError(f"there is no preset '{name}'", settings.suggest(name, names()))
    return Preset(name=name, **tomllib.loads((_folder() / f"{name}{SUFFIX}").read_text(encoding="utf-8")))


def lacking(preset: Preset, given: Collection[str] = ()) -> list[str]:
    """What the preset asks for and `fimble train` cannot do, one phrase each; not of `given` settings."""
    hints = settings.field_types(TrainSettings)
    return [
        f"{name.replace('_', ' ')} {value}"
        for name, value in preset.train.items()
        if name not in given and not (name in hints and _takes(hints[name], value))
    ]


def base_for(preset: Preset, named: str | None) -> str:
    """The base that the user `named`, else the preset's. Raises SettingsError for one that no preset is made for."""
    if named == "scratch":
        raise SettingsError("--preset has no effect with the base scratch", "Leave one of them out.")
    return named or preset.base


def under(
    preset: Preset, tables: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The tables of `fimble.toml` with the preset's settings where `[train]` says nothing.

    Raises SettingsError for a preset that, under these tables and flags, `fimble train` cannot run.
    """
    written = {key.replace("-", "_"): value for key, value in tables.get("train", {}).items()}
    given = {*written, *(name for name, value in flags.items() if value is not None)}
    if missing := lacking(preset, given):
        raise SettingsError(
            f"the preset {preset.name} needs what fimble train does not have: {', '.join(missing)}",
            f"To see what it would take, run: fimble plan --preset {preset.name}",
        )
    return {**tables, "train": {**preset.train, **written}}


def lines() -> list[str]:
    """One line a preset, for people."""
    width = max(map(len, names()))
    return [f"{name:{width}}  {load(name).about}" for name in names()]


def _takes(hint: Any, value: Any) -> bool:
    return typing.get_origin(hint) is not typing.Literal or value in typing.get_args(hint)


def _folder() -> Any:
    return resources.files(__package__)
