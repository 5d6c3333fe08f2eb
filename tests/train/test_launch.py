"""Launching: what is written for each launcher, and torchrun and a Slurm script that really train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.tiny import load
from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError, StageError
from train.launch import LaunchSettings, launch_of, without_launching

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]
SMALL = [
    "--max-steps",
    "3",
    "--batch-size",
    "2",
    "--gradient-accumulation",
    "1",
    "--sequence-length",
    "128",
    "--evaluate-sequences",
    "4",
]


def fimble(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "toolchain.cli", *map(str, arguments)]
    added = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=os.environ | added, capture_output=True, text=True, check=False)


def test_flags_of_launching_are_taken_out_and_no_others() -> None:
    given = ["train", "data", "--launcher", "slurm", "--count=8", "--base", "b", "--dry-run", "--nodes", "2", "--dora"]
    assert without_launching(given) == ["train", "data", "--base", "b", "--dora"]
    assert without_launching(["--dry-run", "data", "--gpu=H100"]) == ["data"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 2}, "this process alone"),
        ({"launcher": "torchrun", "nodes": 2}, "on this machine only"),
        ({"launcher": "slurm", "gpu": "A100"}, "--gpu names what"),
        ({"launcher": "skypilot"}, "--gpu names what"),
        ({"launcher": "torchrun", "count": 0}, "--count"),
    ],
)
def test_contradictions_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LaunchSettings(**values)


def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = LaunchSettings(launcher="slurm", count=8)
    with pytest.raises(StageError, match="sbatch is not installed here"):
        launch_of(settings, ["train"], tmp_path / "out").run()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_launch_waits_until_the_command_has_ended(tmp_path: Path) -> None:
    """Else torchrun is killed before it has ended its own processes, which then go on without anybody."""
    child = (
        "import signal, sys, time; from pathlib import Path\n"
        "def end(*_): time.sleep(1); Path('ended').touch(); sys.exit(1)\n"
        "signal.signal(signal.SIGINT, end); Path('began').touch(); time.sleep(60)"
    )
    code = "import sys; from train.launch import Launch; Launch((sys.executable, '-c', sys.argv[1])).run()"
    command = [sys.executable, "-c", code, child]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "began").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate()[1]
    assert (tmp_path / "ended").exists()


def test_a_skypilot_task_is_yaml_that_says_what_is_rented(tmp_path: Path) -> None:
    yaml = pytest.importorskip("ruamel.yaml", reason="needs the serve extra")
    settings = LaunchSettings(launcher="skypilot", gpu="A100-80GB", count=8, nodes=2)
    launch = launch_of(settings, ["train", "my data", "--out", "out"], tmp_path / "out")
    task = yaml.YAML(typ="safe").load(launch.text)
    assert task["resources"] == {"accelerators": "A100-80GB:8"}
    assert task["num_nodes"] == 2
    assert "--nproc-per-node=8" in task["run"]
    assert "train 'my data' --out out" in task["run"]
    assert "PYTHONSAFEPATH=1" in task["run"]
    assert launch.command == ("sky", "launch", str(tmp_path / "out.sky.yaml"))


def test_a_dry_run_prints_the_script_and_starts_nothing(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out"]
    done = fimble(*arguments, "--launcher", "slurm", "--count", 8, "--nodes", 2, "--dry-run", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["command"] == ["sbatch", str(tmp_path / "out.sbatch")]
    assert "#SBATCH --gpus-per-node=8" in told["text"]
    assert "--launcher" not in told["text"]
    assert not list(tmp_path.iterdir())
    assert subprocess.run(["bash", "-n"], input=told["text"], text=True, check=False).returncode == 0


@pytest.mark.slow
def test_torchrun_trains_in_two_processes_and_says_everything_once(
    dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *SMALL, "--method", "full"]
    done = fimble(*arguments, "--launcher", "torchrun", "--count", 2, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["digest"] == manifest.read(tmp_path / "out").digest
    assert done.stderr.count("held-out loss") == 1
    load(tmp_path / "out")
    again = fimble(*arguments, "--launcher", "torchrun", "--count", 2, "--json")
    assert json.loads(again.stdout)["made"] is False


@pytest.mark.slow
def test_the_slurm_script_trains_where_slurm_is_this_machine(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    """With stand-ins for scontrol and srun: what they are given is run here, by the real torchrun.

    The folder that it runs in is a user's, with a `train.py` that is not to be taken for ours.
    """
    (tmp_path / "train.py").write_text("raise SystemExit('the user's own')")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in (("scontrol", "echo localhost"), ("srun", 'exec "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{content}\n")
        (programs / name).chmod(0o755)
    settings = LaunchSettings(launcher="slurm", count=2)
    out = tmp_path / "out"
    arguments = ["train", str(dataset), "--base", str(base_folder), "--out", str(out), *SMALL]
    script = launch_of(settings, arguments, out).text
    added = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}
    added |= {"SLURM_JOB_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in (os.environ | added).items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        ["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert manifest.read(out, "adapter").facts["steps"] == 3
