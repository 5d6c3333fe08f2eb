"""What the commands have in common: options, the settings file, and how results are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compile.settings import CompileSettings
from serve.settings import ServeSettings
from toolchain.contracts import settings
from toolchain.contracts.errors import SettingsError
from train.data.settings import CollectSettings, DialogueSettings
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

if TYPE_CHECKING:
    from toolchain.contracts.progress import Progress
    from toolchain.contracts.stage import Plan

Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]
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
        "dialogues": DialogueSettings,
        "scratch": ScratchSettings,
        "train": TrainSettings,
        "compile": CompileSettings,
        "serve": ServeSettings,
    }
    return settings.read_file(settings.find_file(Path.cwd()), kinds)


def execute_plan(make_plan: Callable[[Progress], Plan], out: Path, as_json: bool) -> None:
    """Make a stage's plan, run it into `out` unless that is current, and show what is there."""
    from toolchain.console import console
    from toolchain.contracts.stage import execute, is_current

    with console() as progress:
        plan = make_plan(progress)
        current = is_current(plan, out)
        found = execute(plan, out, progress)
    facts = {"folder": str(out.resolve()), "kind": found.kind, "digest": found.digest, "made": not current}
    word = "is current" if current else "made"
    show(as_json, facts | {"facts": found.facts}, [f"{found.kind} {found.digest[:16]} in {out}: {word}"])


def inputs_cache() -> Path:
    """Where single commands remember hashes and fetched repositories."""
    from toolchain.contracts.cache_folder import VARIABLE, cache_folder

    try:
        return cache_folder("inputs")
    except OSError as error:
        next_step = f"Set {VARIABLE} to a folder where files can be made."
        raise SettingsError(f"the cache folder {error.filename} cannot be made ({error.strerror})", next_step) from None
