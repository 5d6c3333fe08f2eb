"""Ctrl-C or SIGTERM ends every command with one line and exit code 130, whenever it comes and however often."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble

pytestmark = pytest.mark.train

LINE = "error: interrupted. Run the same command again to continue.\n"


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_in_a_stage(fimble: Fimble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("train.data.collect.plan", interrupt)
    done = fimble("collect", tmp_path, "--out", "out")
    assert (done.code, done.out, done.err) == (130, "", LINE)


def test_while_libraries_are_imported(fimble: Fimble, monkeypatch: pytest.MonkeyPatch) -> None:
    class Importer:
        find_spec = interrupt

    monkeypatch.setattr(sys, "meta_path", [Importer()])
    monkeypatch.delitem(sys.modules, "toolchain.commands", raising=False)
    done = fimble("--help")
    assert (done.code, done.out, done.err) == (130, "", LINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_twice(tmp_path: Path, number: signal.Signals) -> None:
    command = [str(Path(sys.executable).with_name("fimble")), "collect", sysconfig.get_path("stdlib"), "--out", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "Reading files" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        time.sleep(0.05)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.endswith(LINE)
    assert "Traceback" not in said
    assert "done in" not in said
