"""A task for SkyPilot: machines are rented, get this folder, and run `fimble train --launcher torchrun`.

The task is YAML. Its names are written as JSON strings, which YAML has too, and its commands as an indented block.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolchain.contracts.errors import SettingsError
from train.launch.settings import LaunchSettings
from train.launch.submission import Submission, on_each_machine, plain_name

EXTRAS = "[train,qlora,syntax,track]"
PORT = 29500


def submission(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> Submission:
    """What rents machines for `fimble` with these arguments, which write `out`; the task's file lies beside `out`."""
    task = out.with_name(f"{out.name}.sky.yaml")
    return Submission(("sky", "launch", str(task)), task, _task(settings, arguments, out))


def check_paths(paths: Iterable[str]) -> None:
    """Raise SettingsError for a path that does not lead into this folder, which is all that SkyPilot takes along."""
    here = Path.cwd().resolve()
    for path in paths:
        if Path(path).is_absolute() or path.startswith("~") or not Path(path).resolve().is_relative_to(here):
            raise SettingsError(
                f"{path} does not exist on a rented machine, which gets the folder {here}",
                "Put it there, and name it by its path from there.",
            )


def _task(settings: LaunchSettings, arguments: Sequence[str], out: Path) -> str:
    head = f'"$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"'
    run = on_each_machine(["python3", "-P", "-m", "toolchain.cli", *arguments], settings, head)
    setup = shlex.join(["python3", "-m", "pip", "install", _requirement(settings.install or "")])
    return f"""name: {json.dumps(plain_name(out))}
resources:
  accelerators: {json.dumps(f"{settings.gpu}:{settings.count}")}
num_nodes: {settings.nodes}
workdir: .
setup: |
{textwrap.indent(setup, "  ")}
run: |
{textwrap.indent(run, "  ")}
"""


def _requirement(install: str) -> str:
    """What pip is asked for. Raises SettingsError for a file that is not in this folder."""
    if "://" in install:
        return f"fimble{EXTRAS} @ {install}"
    if not Path(install).exists():
        raise SettingsError(f"--install {install} is neither a file or folder here nor a URL", "Name a wheel.")
    check_paths([install])
    return f"./{Path(install).as_posix().removeprefix('./')}{EXTRAS}"
