"""A training that another program is to start: its command, and the file that it reads."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.errors import StageError


@dataclass(frozen=True)
class Submission:
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
