"""Run as a process of its own that may be killed: trains, and writes down when the first step began."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.train.test_methods import KILLED
from tests.train.tiny import opened
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train


class Clock(Silent):
    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        if title == "Training":
            Path(sys.argv[4]).touch()


if __name__ == "__main__":
    execute(plan_train(Path(sys.argv[1]), opened(Path(sys.argv[2])), KILLED[sys.argv[5]]), Path(sys.argv[3]), Clock())
