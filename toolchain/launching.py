"""`fimble train --launcher` and `--dry-run`: what can be known to be wrong is refused before any process starts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.command_line import execute_plan, show
from train.launch import skypilot, slurm, torchrun
from train.launch.settings import LaunchSettings, without_launching

if TYPE_CHECKING:
    from toolchain.contracts.stage import Plan
    from train.launch.submission import Submission
    from train.running import RunSettings


def launch_here(
    settings: LaunchSettings, running: RunSettings, make_plan: Callable[[], Plan], out: Path, as_json: bool
) -> None:
    """Train in processes of this machine, or say what would be started."""
    from toolchain.contracts.manifest import refuse_existing
    from toolchain.contracts.stage import is_current

    arguments = without_launching(sys.argv[1:])
    plan = make_plan()
    torchrun.check_devices(settings, running.device)
    if is_current(plan, out):
        execute_plan(lambda progress: plan, out, as_json)
        return
    refuse_existing(out)
    if settings.dry_run:
        words = torchrun.command(arguments)
        several = f"{settings.count} processes" if settings.launcher == "torchrun" else "one process"
        lines = [f"# the {plan.kind} {out}, in {several} on this machine", shlex.join(words)]
        show(as_json, {"command": words, "file": None, "text": "", "processes": settings.count}, lines)
        return
    torchrun.start(settings, arguments, plan.key)


def launch_elsewhere(
    settings: LaunchSettings,
    running: RunSettings,
    dataset: Path,
    base: str,
    make_plan: Callable[[], Plan],
    out: Path,
    as_json: bool,
) -> None:
    """Give the training to Slurm or SkyPilot, or say what they would be given."""
    from train.bases import HUB_ID

    arguments = without_launching(sys.argv[1:])
    at_a_hub = bool(HUB_ID.fullmatch(base)) and not Path(base).exists()
    submission: Submission
    if settings.launcher == "slurm":
        submission = slurm.submission(settings, arguments, out)
    else:
        skypilot.check_paths([str(dataset), str(out), *([] if at_a_hub else [base]), *filter(None, [running.track])])
        submission = skypilot.submission(settings, arguments, out)
    if settings.launcher == "slurm" or not at_a_hub:  # a rented machine fetches by itself
        make_plan()
    if not settings.dry_run:
        submission.run()
    facts = {"command": submission.command, "file": str(submission.file), "text": submission.text}
    lines = submission.lines() if settings.dry_run else [f"started with {submission.file}"]
    show(as_json, facts | {"processes": settings.processes}, lines)
