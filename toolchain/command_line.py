"""What the commands have in common: options, the settings file, and how results are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compile.settings import CompileSettings
from serve.settings import ServeSettings
from toolchain.contracts import settings
from train.data.settings import CollectSettings
from train.settings import ScratchSettings, TrainSettings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle, or the workspace of up.")]


def show(as_json: bool, facts: Mapping[str, Any], text: Sequence[str]) -> None:
    """Print a result: its facts for programs, or its text for people."""
    for line in [json.dumps(facts)] if as_json else text:
        print(line, flush=True)


def read_tables() -> dict[str, dict[str, Any]]:
    """What `fimble.toml` says. All of it is checked, whichever command asks."""
    from toolchain.pipeline import UpSettings

    kinds: dict[str, type] = {
        "up": UpSettings,
        "collect": CollectSettings,
        "scratch": ScratchSettings,
        "train": TrainSettings,
        "compile": CompileSettings,
        "serve": ServeSettings,
    }
    return settings.read_file(settings.find_file(Path.cwd()), kinds)
