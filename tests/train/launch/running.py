"""The command in a process of its own, as it runs for a user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SIZES = {"--batch-size": 2, "--gradient-accumulation": 1, "--sequence-length": 128, "--evaluate-sequences": 4}
SMALL = [str(word) for size in SIZES.items() for word in size] + ["--dtype", "float32"]
SHORT, LONG = [*SMALL, "--max-steps", "3"], [*SMALL, "--max-steps", "10000", "--max-epochs", "10000"]
TWO = ["--launcher", "torchrun", "--count", "2"]


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "toolchain.cli", *map(str, arguments)]


def fimble(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(*arguments), env=os.environ | ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )


class Started:
    """A command that goes on in the background, with all that it says in a file."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        with log.open("w") as said:
            self.process = subprocess.Popen(words(*arguments), env=os.environ | ENVIRONMENT, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        while text not in self.said:
            assert self.process.poll() is None, self.said
            time.sleep(0.05)

    def children(self) -> list[int]:
        """The processes that it started, oldest first."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, listed.split()))


def are_gone(processes: list[int], seconds: float) -> bool:
    """Whether the processes end within so many seconds."""
    until = time.monotonic() + seconds
    while any(map(is_running, processes)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
