"""The commands that make datasets: of code, and of dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolchain.command_line import Json, Out, execute_plan, inputs_cache, read_tables
from toolchain.contracts.settings import choose
from toolchain.options import with_options
from train.data.settings import CollectSettings, DialogueSettings

Sources = Annotated[list[str], typer.Argument(help="Folders, Git repositories or their URLs.")]


@with_options(CollectSettings)
def collect_command(sources: Sources, out: Out, as_json: Json = False, **flags: Any) -> None:
    """Repositories to a dataset."""
    from train.data.collect import plan

    chosen = choose(CollectSettings, "collect", read_tables(), flags)
    execute_plan(lambda progress: plan(sources, chosen, inputs_cache(), progress), out, as_json)


@with_options(DialogueSettings)
def dialogues_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of dialogues, one JSON object a line.")],
    out: Out,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Files of dialogues to a dataset, for train --objective chat."""
    from train.data.dialogues import plan

    chosen = choose(DialogueSettings, "dialogues", read_tables(), flags)
    execute_plan(lambda progress: plan(files, chosen), out, as_json)
