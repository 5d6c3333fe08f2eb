"""One of the processes that `fimble train` started: it tells how it failed, and does not outlive its launcher.

torchrun says in the environment which of them it is, the launcher where to report and whom not to outlive.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.contracts.errors import FimbleError
from toolchain.contracts.progress import Silent

if TYPE_CHECKING:
    from toolchain.contracts.stage import Plan

LAUNCHER, REPORTS = "FIMBLE_LAUNCHER", "FIMBLE_REPORTS"
BEGUN = "begun"
LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    *("remote process exited", "communicator was aborted"),
)
"""What Gloo and NCCL say in a process whose others went away."""


@dataclass(frozen=True)
class Report:
    """How a process failed: an error of ours in its parts, or any other with its `traceback`.

    `lost` says that only the others went away.
    """

    message: str
    next_step: str
    exit_code: int
    traceback: str = ""
    lost: bool = False


def is_launched() -> bool:
    """Whether `fimble train` started this process beside others."""
    return REPORTS in os.environ


def follows() -> bool:
    """Whether torchrun started this process as another than the first, which writes and speaks."""
    return os.environ.get("RANK", "0") != "0"


def follow(plan: Plan, out: Path) -> None:
    """Take part in the work of `plan`, whose artifact the first process writes to `out`."""
    from toolchain.contracts.manifest import Draft, work_folder
    from toolchain.contracts.stage import is_current

    if not is_current(plan, out):
        plan.write(Draft(out), work_folder(out.resolve()), Silent())


def begin() -> None:
    """Leave word that this process runs, and end it, whatever it is doing, once its launcher is gone.

    Nobody could stop it then.
    """

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    (Path(os.environ[REPORTS]) / BEGUN).touch()
    launcher = int(os.environ[LAUNCHER])
    threading.Thread(target=watch, daemon=True).start()


def tell(error: BaseException, traceback: str = "") -> None:
    """Leave word for the launcher of what ended this process."""
    lost = any(word in str(error) for word in LOST)
    if isinstance(error, FimbleError):
        report = Report(error.message, error.next_step, error.exit_code, lost=lost)
    else:
        message = f"{type(error).__name__}: {error}"
        report = Report(message, "Please report this, with its traceback.", 1, traceback, lost)
    path = Path(os.environ[REPORTS]) / os.environ["RANK"]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(report)), encoding="utf-8")
    partial.rename(path)


def has_begun(folder: Path) -> bool:
    """Whether a process that reports to this folder has run."""
    return (folder / BEGUN).exists()


def reports(folder: Path) -> Mapping[int, Report]:
    """What the processes told, by rank."""
    return {
        int(p.name): Report(**json.loads(p.read_text(encoding="utf-8"))) for p in folder.iterdir() if p.name.isdigit()
    }
