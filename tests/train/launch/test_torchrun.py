"""Two processes on this machine, or on two: how they train, how they fail and how they are stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.launch import running
from tests.train.launch.running import LONG, SHORT, TWO, Started, are_gone
from tests.train.tiny import load
from toolchain.contracts import manifest
from toolchain.contracts.errors import FimbleError
from train.launch import failure, torchrun
from train.launch.worker import Report

pytestmark = pytest.mark.train

LINE = "error: interrupted. Run the same command again to continue.\n"
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@pytest.mark.slow
def test_two_processes_train_and_say_everything_once(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *SHORT, "--method", "full"]
    done = running.fimble(*arguments, *TWO, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["digest"] == manifest.read(tmp_path / "out").digest
    assert done.stderr.count("held-out loss") == 1
    load(tmp_path / "out")
    again = running.fimble(*arguments, *TWO, "--json")
    assert json.loads(again.stdout)["made"] is False
    assert "Training" not in again.stderr


def test_an_error_of_all_is_told_once_with_its_exit_code(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    wild = ["--learning-rate", 1e30, "--max-gradient-norm", 1e30]
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *SHORT, *wild]
    done = running.fimble(*arguments, *TWO, "--json")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "error" in line.lower())
    assert line.startswith("error: at step 2 the loss is")
    assert done.stderr.endswith(f"{line}\n")
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 1


@pytest.mark.slow
def test_what_a_process_refuses_keeps_its_exit_code(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *LONG, "--save-every", 1]
    training = Started(tmp_path / "log", *arguments, *TWO)
    training.wait_for("step 0")
    training.process.send_signal(signal.SIGTERM)
    training.process.wait()
    done = running.fimble(*arguments, "--seed", 7, *TWO)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if "error" in line.lower())
    assert line.startswith("error: the run that was interrupted here had seed 0, not 7")


@on_linux
def test_stopped_by_sigterm_all_end_after_the_same_step_and_go_on_from_it(
    dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *LONG, "--save-every", 9000, *TWO]
    training = Started(tmp_path / "log", *arguments)
    training.wait_for("step 0")
    children = training.children()
    assert len(children) == 2
    training.process.send_signal(signal.SIGTERM)
    assert training.process.wait() == 130
    assert training.said.endswith(LINE)
    assert "Traceback" not in training.said
    assert are_gone(children, 1)
    (state,) = (tmp_path / ".out.work").glob("state-*")
    again = Started(tmp_path / "log", *arguments)
    again.wait_for(f"Resuming after step {int(state.name[6:])} of")
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait() == 130
    assert again.said.endswith(LINE)


@pytest.fixture
def training(dataset: Path, base_folder: Path, tmp_path: Path) -> Started:
    """Two processes at work, with no end in sight."""
    arguments = ["train", dataset, "--base", base_folder, "--out", tmp_path / "out", *LONG, *TWO]
    started = Started(tmp_path / "log", *arguments)
    started.wait_for("step 0")
    return started


@on_linux
@pytest.mark.slow
def test_processes_do_not_outlive_a_launcher_that_is_killed(training: Started) -> None:
    children = training.children()
    training.process.kill()
    assert len(children) == 2
    assert are_gone(children, 10)
    training.process.wait()


@on_linux
@pytest.mark.slow
def test_a_process_that_is_killed_is_named(training: Started) -> None:
    children = training.children()
    os.kill(children[1], signal.SIGKILL)
    assert training.process.wait() == 1
    assert training.said.splitlines()[-1].startswith("error: process 1 of 2 was ended by SIGKILL. ")
    assert are_gone(children, 1)


@pytest.mark.slow
def test_two_machines_train_as_one(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    """Two launchers that meet at a port, and one launcher of two processes: the same numbers come out."""
    port = running.free_port()
    arguments = ["train", dataset, "--base", base_folder, *SHORT]
    apart = ["--launcher", "torchrun", "--nodes", 2, "--rendezvous", f"localhost:{port}", "--out", tmp_path / "apart"]
    machines = [Started(tmp_path / f"log{number}", *arguments, *apart) for number in (0, 1)]
    assert [machine.process.wait() for machine in machines] == [0, 0], [machine.said for machine in machines]
    assert sum(machine.said.count("held-out loss") for machine in machines) == 1
    assert running.fimble(*arguments, *TWO, "--out", tmp_path / "together").returncode == 0
    one, other = (manifest.read(tmp_path / name, "adapter").facts for name in ("apart", "together"))
    assert one["loss_curve"] == other["loss_curve"]
    assert one["tokens_seen"] == other["tokens_seen"]


@on_linux
@pytest.mark.slow
def test_a_machine_whose_partner_fails_says_so(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    port = running.free_port()
    apart = ["--launcher", "torchrun", "--nodes", 2, "--rendezvous", f"localhost:{port}", "--out", tmp_path / "out"]
    machines = [
        Started(tmp_path / f"log{number}", "train", dataset, "--base", base_folder, *LONG, *apart) for number in (0, 1)
    ]
    while not any("step 0" in machine.said for machine in machines):
        assert all(machine.process.poll() is None for machine in machines), [machine.said for machine in machines]
        time.sleep(0.05)
    (child,) = machines[0].children()
    os.kill(child, signal.SIGKILL)
    assert [machine.process.wait() for machine in machines] == [1, 1]
    first, second = (machine.said.splitlines()[-1] for machine in machines)
    assert " of 2 was ended by SIGKILL. " in first
    assert " lost the connection to another one. " in second


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--optimizer", "adamw_8bit"], ("--optimizer adamw_8bit works on whole weights", "--optimizer adamw")),
        (["--optimizer", "paged_adamw_32bit"], ("--optimizer paged_adamw_32bit works on whole weights",)),
        (["--base", "./nowhere"], ("the base ./nowhere is neither a folder",)),
        (["--lora-target", "nope"], ("--lora-target: no layer",)),
        (["--max-steps", "0"], ("--max-steps cannot be 0",)),
        (["--device", "mps"], ("--device mps: PyTorch finds none here",)),
        (["--out", "full"], ("full already exists",)),
    ],
)
def test_what_can_be_known_is_refused_before_any_process_starts(
    fimble: Fimble,
    dataset: Path,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(torchrun, "start", lambda *_: pytest.fail("started"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    fimble("train", dataset, "--base", base_folder, "--out", "out", *TWO, *changed).refused(*words)
    fimble("train", "nowhere", "--base", base_folder, "--out", "out", *TWO).refused("nowhere")
    assert not (tmp_path / ".out.work").exists()


def test_more_processes_than_gpus_are_refused(
    fimble: Fimble, dataset: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    asked = fimble("train", dataset, "--base", base_folder, "--out", "out", *TWO)
    asked.refused("--count 2: PyTorch finds 1 GPUs here", "--count 1")


def told(exit_code: int = 1, *, traceback: str = "", lost: bool = False) -> Report:
    return Report("it broke", "Mend it.", exit_code, traceback, lost)


@pytest.mark.parametrize(
    ("failed", "reports", "message"),
    [
        ({0: (9, 2), 1: (9, 2)}, {0: told(2), 1: told(2)}, "it broke. Mend it."),
        ({0: (9, 1), 1: (9, 1)}, {0: told(lost=True), 1: told()}, "process 1: it broke. Mend it."),
        ({0: (9, 1), 1: (9, -9)}, {0: told()}, "process 1 of 2 was ended by SIGKILL. The system does that"),
        ({0: (9, 1), 1: (40, -9)}, {0: told()}, "it broke. Mend it."),  # killed by the agent, after its patience
        ({0: (9, -15), 1: (9, -11)}, {}, "process 1 of 2 was ended by SIGSEGV. Run again"),
        (
            {0: (9, 1), 1: (9, -15)},
            {0: told(lost=True)},
            "process 0 of 2 lost the connection to another one. What ended",
        ),
        ({1: (9, 3)}, {}, "process 1 of 2 ended with 3"),
    ],
)
def test_the_cause_is_told_and_not_what_the_others_made_of_it(
    failed: dict[int, tuple[int, int]], reports: dict[int, Report], message: str
) -> None:
    error = failure.cause(failed, reports, 2)
    assert isinstance(error, FimbleError)
    assert str(error).startswith(message)
    assert error.exit_code == (reports[0].exit_code if message.startswith("it broke") else 1)


def test_processes_that_were_all_stopped_were_interrupted() -> None:
    stopped = {0: (9, 130), 1: (9, 130)}
    assert isinstance(failure.cause(stopped, {0: told(130), 1: told(130)}, 2), KeyboardInterrupt)


def test_the_traceback_of_an_unexpected_error_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = failure.cause({1: (9, 1)}, {1: told(traceback="Traceback of it")}, 2)
    assert str(error).startswith("process 1: it broke")
    assert "Traceback of it" in capsys.readouterr().err
