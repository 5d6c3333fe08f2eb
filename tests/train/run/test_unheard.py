"""A training goes on when nobody hears it any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.contracts import manifest

pytestmark = [pytest.mark.train, pytest.mark.skipif(os.name != "posix", reason="descriptors and terminals are POSIX's")]

SETTINGS = (
    *("--sequence-length=128", "--batch-size=2", "--evaluate-sequences=2", "--max-steps=2", "--warmup-steps=1"),
    *("--dtype=float32",),
)


def training(dataset: Path, base_folder: Path, out: Path) -> list[str]:
    command = ["-P", "-m", "toolchain.cli", "train", str(dataset), "--base", str(base_folder), "--out", str(out)]
    return [sys.executable, *command, *SETTINGS]


@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-", "2>&- >&- <&-"])
def test_closed_streams_end_no_training_and_nothing_is_written_into_its_files(
    dataset: Path, base_folder: Path, tmp_path: Path, closed: str
) -> None:
    command = training(dataset, base_folder, tmp_path / "out")
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, check=False)
    assert done.returncode == 0
    assert not manifest.verify(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_reader_that_goes_away_ends_no_training(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        training(dataset, base_folder, tmp_path / "out"), stderr=writer, stdout=subprocess.DEVNULL
    )
    os.close(writer)
    assert os.read(reader, 1)  # it has begun
    os.close(reader)
    assert process.wait(timeout=120) == 0
    assert not manifest.verify(tmp_path / "out")


def test_a_terminal_that_goes_away_ends_no_training_that_ignores_hang_ups(
    dataset: Path, base_folder: Path, tmp_path: Path
) -> None:
    """As under nohup, which leaves a standard error alone that leads elsewhere, here to another terminal."""
    master, terminal = os.openpty()
    process = subprocess.Popen(
        training(dataset, base_folder, tmp_path / "out"),
        stderr=terminal,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.close(terminal)
    assert os.read(master, 1)
    os.close(master)
    assert process.wait(timeout=120) == 0
    assert not manifest.verify(tmp_path / "out")
