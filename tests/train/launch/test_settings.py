"""What starts a training: contradictions, and the flags that the started processes are not given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from toolchain.contracts.errors import SettingsError
from train.launch.settings import LaunchSettings, without_launching
from train.launch.submission import remark


def test_flags_of_launching_are_taken_out_and_no_others() -> None:
    given = ["train", "data", "--launcher", "slurm", "--count=8", "--base", "b", "--dry-run", "--nodes", "2", "--dora"]
    assert without_launching(given) == ["train", "data", "--base", "b", "--dora"]
    given = ["--no-dry-run", "data", "--gpu=H100", "--install", "a.whl", "--rendezvous=a:1", "--json"]
    assert without_launching(given) == ["data", "--json"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 2}, "this process alone"),
        ({"launcher": "torchrun", "nodes": 2}, "needs --rendezvous"),
        ({"launcher": "torchrun", "nodes": 2, "rendezvous": "here"}, "is not HOST:PORT"),
        ({"launcher": "torchrun", "nodes": 2, "rendezvous": "here:99999"}, "is not HOST:PORT"),
        ({"launcher": "torchrun", "rendezvous": "here:29500"}, "with --nodes above 1"),
        ({"launcher": "slurm", "nodes": 2, "rendezvous": "here:29500"}, "is for --launcher torchrun"),
        ({"launcher": "slurm", "gpu": "A100"}, "--gpu names what"),
        ({"launcher": "skypilot"}, "--gpu names what"),
        ({"launcher": "skypilot", "gpu": "A100"}, "--install says where"),
        ({"launcher": "torchrun", "count": 0}, "--count"),
    ],
)
def test_contradictions_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LaunchSettings(**values)


def test_a_remark_stays_on_its_line() -> None:
    assert remark("a\n$(touch b)\r\nc") == "# a $(touch b) c"


def test_machines_meet_at_a_host_or_an_address() -> None:
    for place in ("node-1.local:29500", "10.0.0.1:29500", "[fe80::1]:29500"):
        LaunchSettings(launcher="torchrun", nodes=2, rendezvous=place)


@pytest.mark.train
def test_a_dry_run_of_one_process_or_more_checks_all_and_says_what_would_run(
    fimble: Fimble, dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    line = ("train", dataset, "--base", base_folder, "--out", "out", "--dry-run")
    for several, words in (([], "one process"), (["--launcher", "torchrun", "--count", 2], "2 processes")):
        done = fimble(*line, *several)
        assert (done.code, done.err) == (0, "")
        said, command = done.out.splitlines()
        assert said == f"# out, by {words} on this machine"
        assert command.endswith(f"train {dataset} --base {base_folder} --out out")
        fimble(*line, *several, "--seed", -1).refused("--seed cannot be -1")
        fimble(*line, *several, "--base", "./nowhere").refused("the base ./nowhere is neither")
    assert not list(tmp_path.iterdir())
