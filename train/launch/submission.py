"""A training that another program is to start: its command, and the file that it reads."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.errors import StageError
from train.launch.settings import LaunchSettings


@dataclass(frozen=True)
class Submission:
    """`command` is to be run once `text` is in `file`."""

    command: tuple[str, ...]
    file: Path
    text: str

    def lines(self) -> list[str]:
        """What `--dry-run` prints."""
        return [remark(str(self.file)), self.text.rstrip(), "", shlex.join(self.command)]

    def run(self) -> None:
        """Write the file and run the command. Raises StageError when it fails."""
        from toolchain.contracts.manifest import write_text

        if shutil.which(self.command[0]) is None:
            raise StageError(f"{self.command[0]} is not installed here", "Use --dry-run to see what it would be given.")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, self.text)
        code = subprocess.run(self.command, check=False).returncode
        if code:
            raise StageError(f"{self.command[0]} ended with {code}", "What went wrong is told above.")


def remark(text: str) -> str:
    """A shell's comment, which stays on its line whatever names are in it."""
    return "# " + " ".join(text.splitlines())


def on_each_machine(words: Sequence[str], settings: LaunchSettings, head: str) -> str:
    """The command, for the shell, that starts a machine's processes of the training that `words` are.

    `head` is where several machines meet, as the shell takes it.
    """
    command = shlex.join([*words, "--launcher", "torchrun", "--count", str(settings.count)])
    return f"{command} --nodes {settings.nodes} --rendezvous {head}" if settings.nodes > 1 else command


def plain_name(out: Path) -> str:
    """The name of `out` in letters, digits and dashes, which every program takes for a name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", out.name).strip("-") or "fimble"
