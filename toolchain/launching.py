"""`fimble train --launcher`: the same command, started in several processes by another program."""

from __future__ import annotations

import sys
from pathlib import Path

from toolchain.command_line import show
from train.launch import LaunchSettings, launch_of, without_launching


def started(settings: LaunchSettings, out: Path, as_json: bool) -> None:
    """Start what this process was asked for, or print what would be started."""
    launch = launch_of(settings, without_launching(sys.argv[1:]), out)
    facts = {"command": launch.command, "file": str(launch.file) if launch.file else None, "text": launch.text}
    if settings.dry_run:
        show(as_json, facts, launch.lines())
        return
    launch.run()
    if settings.launcher != "torchrun":  # whose processes have told it themselves
        show(as_json, facts, [f"started with {launch.file}"])
