"""`fimble train --launcher` and `--dry-run`: what can be known to be wrong is refused before anything starts."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.command_line import execute_plan, show
from train.launch import meeting, skypilot, slurm, torchrun
from train.launch.settings import LaunchSettings, without_launching
from train.launch.submission import remark

if TYPE_CHECKING:
    from toolchain.contracts.stage import Plan
    from train.launch.submission import Submission
    from train.running import RunSettings


def launch(
    settings: LaunchSettings,
    running: RunSettings,
    dataset: Path,
    base: str,
    make_plan: Callable[[], Plan],
    out: Path,
    as_json: bool,
) -> None:
    """Start what this process was asked for, or say what would be started; nothing for an artifact that is current."""
    from toolchain.contracts.manifest import refuse_existing
    from toolchain.contracts.stage import is_current
    from train.bases.base import HUB_ID

    # PyTorch looks at it once, when it is loaded. Otherwise it warns at length of a machine that is gone.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    rents = settings.launcher == "skypilot"
    at_a_hub = bool(HUB_ID.fullmatch(base)) and not Path(base).exists()
    if rents:
        skypilot.check_paths([str(dataset), str(out), *([] if at_a_hub else [base]), *filter(None, [running.track])])
    if not (rents and at_a_hub):  # a rented machine fetches it by itself
        plan = make_plan()
        if is_current(plan, out):
            execute_plan(lambda progress: plan, out, as_json)
            return
    refuse_existing(out)
    arguments = without_launching(sys.argv[1:])
    if rents:
        _submit(skypilot.submission(settings, arguments, out), settings, as_json)
    elif settings.launcher == "slurm":
        _submit(slurm.submission(settings, arguments, out), settings, as_json)
    else:
        torchrun.check_devices(settings, running.device)
        if settings.rendezvous is not None:
            meeting.check(settings.rendezvous)
        if settings.dry_run:
            _show_processes(settings, arguments, out, as_json)
        else:
            torchrun.start(settings, arguments, plan.key)


def _submit(submission: Submission, settings: LaunchSettings, as_json: bool) -> None:
    if not settings.dry_run:
        submission.run()
    facts = {"command": submission.command, "file": str(submission.file), "text": submission.text}
    lines = submission.lines() if settings.dry_run else [f"started with {submission.file}"]
    show(as_json, facts | {"processes": settings.processes}, lines)


def _show_processes(settings: LaunchSettings, arguments: list[str], out: Path, as_json: bool) -> None:
    words = torchrun.command(arguments)
    several = "one process" if settings.count == 1 else f"{settings.count} processes"
    facts: dict[str, Any] = {"command": words, "file": None, "text": "", "processes": settings.count}
    show(as_json, facts, [remark(f"{out}, by {several} on this machine"), shlex.join(words)])
