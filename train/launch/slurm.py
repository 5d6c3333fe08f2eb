"""A batch script for Slurm: each machine runs `fimble train --launcher torchrun`, which starts its processes.

sbatch reads the `#SBATCH` lines by quoting rules of its own, where a backslash keeps its meaning between all quotes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from toolchain.contracts.errors import SettingsError
from train.launch.settings import LaunchSettings
from train.launch.submission import Submission, on_each_machine, plain_name
from train.launch.torchrun import command

CORES = 8
"""Processor cores for each process."""

SECONDS = 120
"""How long before its time is up a job is told to save its state and end."""


def submission(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> Submission:
    """What submits `fimble` with these arguments, which write `out`; its script and its log lie beside `out`.

    Raises SettingsError for a name that a log cannot have: of backslashes Slurm makes something else.
    """
    if "\\" in str(out.resolve()) or not str(out.resolve()).isprintable():
        raise SettingsError(f"Slurm takes no file name like {out.name!r}", "Choose another --out.")
    script = out.with_name(f"{out.name}.sbatch")
    return Submission(("sbatch", str(script)), script, _script(settings, arguments, out))


def _script(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> str:
    log = str(out.resolve().with_name(f"{out.name}.log")).replace("%", "%%")
    fimble = on_each_machine(command(arguments), settings, '"$head:$port"')
    return f"""#!/bin/bash
#SBATCH --job-name={plain_name(out)}
#SBATCH --nodes={settings.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={settings.count}
#SBATCH --cpus-per-task={settings.count * CORES}
#SBATCH --output={_quoted(log)}
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{SECONDS}
set -e
cd {shlex.quote(str(Path.cwd()))}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / {settings.count}))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
srun --kill-on-bad-exit=1 {fimble}
"""


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
