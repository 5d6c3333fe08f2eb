"""The commands for what is there already: what artifacts are, what came of trainings, publishing and clearing away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toolchain.command_line import Json, show


def inspect_command(
    folder: Annotated[Path, typer.Argument(help="A folder that fimble wrote; of a workspace, its bundle.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file again.")] = False,
    as_json: Json = False,
) -> None:
    """What an artifact is, and what it was made from."""
    from toolchain.inspection import describe, lines
    from toolchain.workspace import named_artifact

    report = describe(named_artifact(folder), verify)
    show(as_json, report, lines(report))
    if report.get("problems"):
        sys.exit(1)


def report_command(
    folders: Annotated[list[Path], typer.Argument(help="Adapters, full checkpoints, or workspaces of up.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One page with the curves of one or several trainings, laid over one another."""
    from toolchain.report import check_out, read_runs, write_page

    check_out(out)
    runs = read_runs(folders)
    write_page(runs, out)
    facts = {"page": str(out.resolve()), "runs": [run.name for run in runs]}
    show(as_json, facts, [f"{out}: {', '.join(run.name for run in runs)}"])


def push_command(
    folder: Annotated[Path, typer.Argument(help="An artifact; of a workspace, its bundle.")],
    repository: Annotated[str, typer.Argument(help="Where on the hub: owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is for everybody to see.")] = False,
    message: Annotated[str, typer.Option("--message", help="The commit's message.")] = "Upload with fimble",
    as_json: Json = False,
) -> None:
    """Publish an artifact on a Hugging Face hub, privately unless told otherwise, with a card of its origin."""
    from toolchain.console import console
    from toolchain.publishing import push
    from toolchain.workspace import named_artifact

    with console() as progress:
        url = push(named_artifact(folder), repository, public, message, progress)
    show(as_json, {"url": url}, [url])


def prune_command(
    workspace: Annotated[Path, typer.Argument(help="The workspace of up.")] = Path(".fimble"),
    as_json: Json = False,
) -> None:
    """Remove from a workspace what neither its current bundle nor the previous one was made from."""
    from toolchain.workspace import prune

    done = prune(workspace)
    show(as_json, done, [*done["removed"], f"removed {len(done['removed'])} folders, {done['bytes']:,} bytes"])
