"""Two processes that train with the settings in a JSON file, and tell what became of each parameter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from tests.toolchain.planning.shapes import stored_bytes
from tests.train.tiny import Lines, norms_noted, opened
from toolchain.contracts.errors import FimbleError
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train
from train.launch import worker
from train.run import loop
from train.settings import TrainSettings

ROOT = Path(__file__).parents[2]


def torchrun(dataset: Path, base: Path, work: Path, jobs: list[dict[str, Any]]) -> int:
    """Have two processes carry out `jobs`, one after another, in the folder `work`; the exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    (work / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.train.two_processes", str(dataset), str(base), str(work)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stderr[-8000:])
    return done.returncode


def job(name: str, settings: TrainSettings, **more: Any) -> dict[str, Any]:
    """One training as JSON; `kill_at` more names the step at which the processes kill themselves."""
    return {"name": name, "settings": {k: v for k, v in asdict(settings).items() if v != ()}, **more}


def told(work: Path, name: str) -> dict[str, Any]:
    """What the job of this name in the folder `work` left word of."""
    found: dict[str, Any] = json.loads((work / f"{name}.json").read_text())
    return found


def main() -> None:
    dataset, base, work = map(Path, sys.argv[1:4])
    for given in json.loads((work / "jobs.json").read_text()):
        name, kill_at = given["name"], given.get("kill_at")
        plan = plan_train(dataset, opened(base), TrainSettings(**given["settings"]))
        seen: dict[str, Any] = {}
        watch(seen, kill_at)
        lines = Lines()
        try:
            with norms_noted() as seen["norms"]:
                if worker.follows():
                    worker.follow(plan, work / name)
                else:
                    execute(plan, work / name, lines)
        except FimbleError as error:
            seen["error"] = str(error)
        if not worker.follows():
            (work / f"{name}.json").write_text(json.dumps(seen | {"lines": lines.lines}))


def watch(seen: dict[str, Any], kill_at: int | None) -> None:
    """Note whether parameters are sharded, and die at a step."""
    original = loop.Run._step

    def step(run: loop.Run) -> float:
        weights = dict(run.losses.named_parameters())
        sharded = {name for name, weight in weights.items() if isinstance(weight, DTensor)}
        seen["sharded"], seen["whole"] = sorted(sharded), sorted(set(weights) - sharded)
        moments = [state["exp_avg"] for state in run.optimizer.state.values()]
        seen["moments sharded"] = bool(moments) and all(isinstance(moment, DTensor) for moment in moments)
        seen["local"] = sum(weights[name].to_local().numel() for name in sharded)
        seen["total"] = sum(weights[name].numel() for name in sharded)
        seen["bytes"] = stored_bytes(weights.values())
        if kill_at is not None and run.record.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_before(run)

    step_before = getattr(original, "original", original)
    step.original = step_before
    loop.Run._step = step


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
