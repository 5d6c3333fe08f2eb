"""Presets: whole trainings by name, as data. Each is a TOML file here: its base, its machine and its settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from toolchain.contracts import settings
from toolchain.contracts.errors import SettingsError
from train import defaults

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


def base_for(preset: Preset, named: str | None) -> str:
    """The base that the user `named`, else the preset's. Raises SettingsError for one that no preset is made for."""
    if named == "scratch":
        raise SettingsError("--preset has no effect with the base scratch", "Leave one of them out.")
    return named or preset.base


def beneath(preset: Preset, tables: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]) -> dict[str, Any]:
    """`flags`, and the preset's settings where neither they nor `[train]` of `fimble.toml` say anything.

    Its learning rate is that of its method: with `full` in place of an adapter, or the other way, it gives way too.
    """
    table = tables.get("train", {})
    method = flags.get("method") or table.get("method") or preset.train.get("method")
    own = dict(preset.train)
    if (method == "full") != (own.get("method") == "full"):
        own.pop("learning_rate", None)
    return defaults.beneath(own, table, flags)


def lines() -> list[str]:
    """One line a preset, for people."""
    width = max(map(len, names()))
    return [f"{name:{width}}  {load(name).about}" for name in names()]


def _folder() -> Any:
    return resources.files(__package__)
