"""`--json`: whatever happens, the last line of standard output is one object."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.data.repositories import commit_files, module, write_files

pytestmark = pytest.mark.train


def test_what_was_made_is_named_by_its_whole_path(fimble: Fimble, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {f"{topic}.py": module(topic) for topic in ("alpha", "beta", "gamma")})
    done = fimble("collect", source, "--out", "data", "--json")
    assert (done.report["kind"], done.report["folder"]) == ("dataset", str(tmp_path / "data"))
    assert done.report["made"]


def test_a_second_run_says_that_nothing_was_to_be_done_and_what_is_left_out(fimble: Fimble, tmp_path: Path) -> None:
    commit_files(tmp_path / "tool", {f"{topic}.py": module(topic) for topic in ("alpha", "beta", "gamma")})
    assert fimble("collect", "tool", "--out", "data").out.endswith(" in data: made\n")
    again = fimble("collect", "tool", "--out", "data")
    assert again.out.endswith(" in data: is current\n")
    assert "without what is not committed" in again.err
    assert not fimble("collect", "tool", "--out", "data", "--json").report["made"]


def test_a_refusal(fimble: Fimble) -> None:
    done = fimble("inspect", "none", "--json")
    done.refused("none does not exist. Name a folder that fimble wrote.")
    told = {"error": "none does not exist", "next_step": "Name a folder that fimble wrote.", "exit_code": 2}
    assert done.report == told


def test_a_line_that_no_command_takes(fimble: Fimble) -> None:
    done = fimble("train", "data", "--out", "a", "--base", "b", "--epochs", "2", "--json")
    done.refused("no such option: --epochs", "See fimble train --help.")
    assert done.report["exit_code"] == 2
    fimble("train").refused("missing argument 'dataset'. See fimble train --help.")
    fimble("colect").refused("no such command 'colect'", "See fimble --help.")


def test_an_interruption(fimble: Fimble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.data.collect.plan", interrupt)
    assert fimble("collect", tmp_path, "--out", "out", "--json").report == {
        "error": "interrupted",
        "next_step": "Run the same command again to continue.",
        "exit_code": 130,
    }


def test_a_failure_that_nobody_foresaw(
    fimble: Fimble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("train.data.collect.plan", fail)
    with pytest.raises(ZeroDivisionError):
        fimble("collect", tmp_path, "--out", "out", "--json")
    assert '"error": "ZeroDivisionError: oh"' in capsys.readouterr().out


def test_without_a_command_there_is_help_and_a_version(fimble: Fimble) -> None:
    assert "collect" in fimble().out
    assert fimble("--version").out.strip()[0].isdigit()
