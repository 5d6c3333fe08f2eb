"""The script for Slurm: how it reads its names, and that it trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.launch import running
from tests.train.launch.running import LONG, ROOT, SHORT
from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError, StageError
from train.launch import slurm
from train.launch.settings import LaunchSettings

pytestmark = pytest.mark.train

ODD = 'my $(touch owned) run\'s "best" #1 50%'


def submitted(folder: Path, name: str = "out", **settings: int) -> str:
    chosen = LaunchSettings(launcher="slurm", **settings)
    return slurm.submission(chosen, ["train", "data", "--out", name], folder / name).text


def directives(script: str) -> dict[str, str]:
    """What sbatch takes from a script: words as its manual and `_get_argument` in its sources have them."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(word(line.removeprefix("#SBATCH ")).removeprefix("--").split("=", 1) for line in lines)


def word(line: str) -> str:
    taken, quote, characters = "", "", iter(line)
    for character in characters:
        if character == "\\":
            taken += next(characters)
        elif quote:
            taken, quote = (taken, "") if character == quote else (taken + character, quote)
        elif character in "\"'":
            quote = character
        else:
            assert not character.isspace()
            assert character != "#"
            taken += character
    assert not quote
    return taken


def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = LaunchSettings(launcher="slurm", count=8)
    with pytest.raises(StageError, match="sbatch is not installed here"):
        slurm.submission(settings, ["train"], tmp_path / "out").run()
    assert not list(tmp_path.iterdir())


def test_a_job_asks_for_cores_and_for_time_to_save_its_state(tmp_path: Path) -> None:
    asked = directives(submitted(tmp_path, count=4, nodes=2))
    assert asked["job-name"] == "out"
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "1", "4")
    assert asked["cpus-per-task"] == str(4 * slurm.CORES)
    assert "\nexport OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 4))\n" in submitted(tmp_path, count=4, nodes=2)
    assert asked["signal"] == f"TERM@{slurm.SECONDS}"
    assert asked["open-mode"] == "append"


def test_names_are_neither_run_nor_torn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)
    script = submitted(folder, ODD)
    asked = directives(script)
    assert asked["job-name"] == "my-touch-owned-run-s-best-1-50"
    assert asked["output"].replace("%%", "%") == str(folder / f"{ODD}.log")
    assert script_runs(script, folder)[-2:] == ["--count", "1"]
    assert ODD in script_runs(script, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["bin"]
    for name in ("a\nb", "a\\b"):
        with pytest.raises(SettingsError, match="Slurm takes no file name"):
            submitted(folder, name)


def script_runs(script: str, folder: Path) -> list[str]:
    """What srun is given, and is not run."""
    programs(folder, 'printf "%s\\0" "$@"')
    done = subprocess.run(["bash"], input=script, env=environment(folder), capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def programs(folder: Path, srun: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    for name, content in (("scontrol", "echo localhost"), ("srun", srun)):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
        (folder / "bin" / name).chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    added = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}
    added |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "2"}
    return {name: value for name, value in (os.environ | added).items() if name != "PYTHONSAFEPATH"}


def test_a_dry_run_prints_the_script_and_starts_nothing(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out"]
    done = running.fimble(*arguments, "--launcher", "slurm", "--count", 8, "--nodes", 2, "--dry-run", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["command"] == ["sbatch", str(tmp_path / "out.sbatch")]
    assert "#SBATCH --gpus-per-node=8" in told["text"]
    assert '--launcher torchrun --count 8 --nodes 2 --rendezvous "$head:$port"' in told["text"]
    assert not list(tmp_path.iterdir())
    assert subprocess.run(["bash", "-n"], input=told["text"], text=True, check=False).returncode == 0


def test_what_can_be_known_is_refused_before_the_job_waits(fimble: Fimble, dataset: Path, base_folder: Path) -> None:
    line = ("train", dataset, "--out", "out", "--launcher", "slurm", "--count", 2)
    fimble(*line, "--base", "./nowhere").refused("the base ./nowhere is neither")
    fimble(*line, "--base", base_folder, "--optimizer", "adamw_8bit").refused("works on whole weights")


class Job:
    """The script as a job: what srun is given runs here, and gets the signal that Slurm sends to a job's steps."""

    def __init__(self, script: str, folder: Path) -> None:
        programs(folder, 'shift; exec "$@"')
        (folder / "script").write_text(script)
        self.log = folder / "log"
        with self.log.open("w") as said:
            self.batch = subprocess.Popen(["bash", "script"], cwd=folder, env=environment(folder), stderr=said)

    def stop_after(self, text: str) -> int:
        while text not in self.log.read_text():
            assert self.batch.poll() is None, self.log.read_text()
            time.sleep(0.05)
        (step,) = Path(f"/proc/{self.batch.pid}/task/{self.batch.pid}/children").read_text().split()
        os.kill(int(step), signal.SIGTERM)
        return self.batch.wait()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_script_trains_and_goes_on_when_its_time_was_up_before(
    dataset: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user's folder, with a `train.py` that is not to be taken for ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('the user's own')")
    settings = LaunchSettings(launcher="slurm", count=2)
    line = ["train", str(dataset), "--base", str(base_folder)]
    long = [*line, "--out", "long", *LONG, "--save-every", "9000"]
    script = slurm.submission(settings, long, Path("long")).text
    assert Job(script, tmp_path).stop_after("step 0") == 130
    (state,) = (tmp_path / ".long.work").glob("state-*")
    assert Job(script, tmp_path).stop_after(f"Resuming after step {int(state.name[6:])} of") == 130
    short = Job(slurm.submission(settings, [*line, "--out", "short", *SHORT], Path("short")).text, tmp_path)
    assert short.batch.wait() == 0, short.log.read_text()
    assert manifest.read(tmp_path / "short", "adapter").facts["steps"] == 3
