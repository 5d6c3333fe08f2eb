"""Starting a training in several processes: with torchrun, by Slurm, or on a rented machine by SkyPilot.

Each of them runs the same command once a process, without the launching; torchrun tells a process its place in the
environment. Only that is looked at here, so that nothing heavy is loaded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolchain.contracts.errors import SettingsError, StageError
from toolchain.contracts.progress import Silent
from toolchain.contracts.settings import at_least

if TYPE_CHECKING:
    from toolchain.contracts.stage import Plan

Launcher = Literal["local", "torchrun", "slurm", "skypilot"]
PORT = 29500
SAFE_PATH = "PYTHONSAFEPATH=1"
"""For torchrun's processes: the folder that they start in may hold a `train.py`, which is none of ours."""
VALUED, SWITCHES = ("--launcher", "--count", "--nodes", "--gpu"), ("--dry-run", "--no-dry-run")


@dataclass(frozen=True)
class LaunchSettings:
    launcher: Launcher = "local"
    """What starts the processes: local (this one alone), torchrun (on this machine), slurm or skypilot."""

    count: int = 1
    """Processes on each machine, one for each of its GPUs."""

    nodes: int = 1
    """Machines, with slurm and skypilot."""

    gpu: str | None = None
    """The GPU to rent with skypilot, by SkyPilot's name for it, such as A100-80GB."""

    dry_run: bool = False
    """Print what would be started, and start nothing."""

    def __post_init__(self) -> None:
        at_least("--count", self.count, 1)
        at_least("--nodes", self.nodes, 1)
        if self.launcher == "local" and (self.count > 1 or self.nodes > 1 or self.dry_run):
            raise SettingsError("--launcher local is this process alone", "Add --launcher torchrun, slurm or skypilot.")
        if self.launcher == "torchrun" and self.nodes > 1:
            raise SettingsError("--launcher torchrun starts processes on this machine only", "Use slurm or skypilot.")
        if (self.gpu is not None) != (self.launcher == "skypilot"):
            raise SettingsError("--gpu names what --launcher skypilot rents", "Give both, or neither.")


@dataclass(frozen=True)
class Launch:
    """A command, and the file that it reads, if it reads one."""

    command: tuple[str, ...]
    file: Path | None = None
    text: str = ""

    def lines(self) -> list[str]:
        """What `--dry-run` prints."""
        return [*([f"# {self.file}", self.text.rstrip(), ""] if self.file else []), shlex.join(self.command)]

    def run(self) -> None:
        """Write the file and run the command. Raises StageError when it fails.

        An interruption reaches the command as well, which is waited for: torchrun has to end its processes first.
        """
        if shutil.which(self.command[0]) is None:
            raise StageError(f"{self.command[0]} is not installed here", "Use --dry-run to see what it would be given.")
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            from toolchain.contracts.manifest import write_text

            write_text(self.file, self.text)
        process = subprocess.Popen(self.command)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        if code:
            raise StageError(f"{self.command[0]} ended with {code}", "What went wrong is told above.")


def launch_of(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> Launch:
    """What starts `fimble` with these arguments, which write `out`; a file that it needs lies beside `out`."""
    if settings.launcher == "torchrun":
        return Launch((sys.executable, *_torchrun(settings, ["--standalone"]), *arguments))
    if settings.launcher == "slurm":
        script = out.with_name(f"{out.name}.sbatch")
        return Launch(("sbatch", str(script)), script, _slurm_script(settings, arguments, out))
    task = out.with_name(f"{out.name}.sky.yaml")
    return Launch(("sky", "launch", str(task)), task, _skypilot_task(settings, arguments, out))


def without_launching(arguments: Sequence[str]) -> list[str]:
    """A command line without the flags of launching, which a process that was launched is not to be given."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, given, _ = word.partition("=")
        if name in VALUED and not given:
            next(words, None)
        elif name not in (*VALUED, *SWITCHES):
            kept.append(word)
    return kept


def refuse_alone(name: str, count: int, settings: LaunchSettings) -> None:
    """Raise SettingsError for a preset of `count` GPUs that would run in one process."""
    if count > 1 and settings.launcher == "local" and os.environ.get("WORLD_SIZE", "1") == "1":
        raise SettingsError(f"the preset {name} is for {count} GPUs", f"Add --launcher torchrun --count {count}.")


def follows() -> bool:
    """Whether torchrun started this process as another than the first, which writes and speaks."""
    return os.environ.get("RANK", "0") != "0"


def follow(plan: Plan, out: Path) -> None:
    """Take part in the work of `plan`, whose artifact the first process writes to `out`."""
    from toolchain.contracts.manifest import Draft, work_folder
    from toolchain.contracts.stage import is_current

    if not is_current(plan, out):
        plan.write(Draft(out), work_folder(out.resolve()), Silent())


def _torchrun(settings: LaunchSettings, meeting: Sequence[str]) -> list[str]:
    return [
        *("-P", "-m", "torch.distributed.run", f"--nnodes={settings.nodes}", f"--nproc-per-node={settings.count}"),
        *(*meeting, "-m", "toolchain.cli"),
    ]


def _slurm_script(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> str:
    meeting = ["--rdzv-backend=c10d", "--rdzv-id=$SLURM_JOB_ID", f"--rdzv-endpoint=$head:{PORT}"]
    command = " ".join([shlex.quote(sys.executable), *_torchrun(settings, meeting), shlex.join(arguments)])
    return f"""#!/bin/bash
#SBATCH --job-name={shlex.quote(out.name)}
#SBATCH --nodes={settings.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={settings.count}
#SBATCH --output={shlex.quote(out.name + ".log")}
set -e
export {SAFE_PATH}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun {command}
"""


def _skypilot_task(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> str:
    meeting = ["--node-rank=$SKYPILOT_NODE_RANK", "--master-addr=$head", f"--master-port={PORT}"]
    command = " ".join(["python", *_torchrun(settings, meeting), shlex.join(arguments)])
    return f"""name: {out.name}
resources:
  accelerators: {settings.gpu}:{settings.count}
num_nodes: {settings.nodes}
workdir: .
setup: pip install 'fimble[train,qlora]'
run: |
  export {SAFE_PATH}
  head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  {command}
"""
