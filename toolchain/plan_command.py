"""`fimble plan`, and the option that names a preset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from toolchain.command_line import Json, read_tables, show
from toolchain.options import with_options
from toolchain.planning.settings import MachineSettings
from train import presets
from train.settings import TrainSettings


def _tell_presets(name: str | None) -> str | None:
    if name == "list":
        print("\n".join(presets.lines()))
        raise typer.Exit
    return name


PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        is_eager=True,
        callback=_tell_presets,
        help=f"Settings by name: {', '.join(presets.names())}; list says what they are.",
    ),
]


@with_options(MachineSettings, TrainSettings)
def plan_command(
    base: Annotated[
        str | None, typer.Option("--base", help="A checkpoint folder or a hub id, of which only config.json is read.")
    ] = None,
    preset: PresetName = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """What a training would take: memory, time and cost. Without a base: what this machine can train and serve."""
    from toolchain.planning import command

    facts, lines = command.run(base, None if preset is None else presets.load(preset), read_tables(), flags)
    show(as_json, facts, lines)
