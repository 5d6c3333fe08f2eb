"""Linking object files to a shared library with what the machine has: its C compiler, else ziglang from PyPI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from toolchain.contracts.errors import MissingExtra, StageError


def command() -> list[str]:
    """The start of a command line that links C objects. Raises MissingExtra when there is nothing to link with."""
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    if importlib.util.find_spec("ziglang"):
        # -P: a ziglang.py in the user's folder must not be run in its place.
        return [sys.executable, "-P", "-m", "ziglang", "cc"]
    raise MissingExtra("there is no C compiler or linker on this machine", "Run: pip install ziglang")


def link(output: Path, objects: Sequence[Path]) -> None:
    """Link `objects` to the shared library `output`. Raises StageError with the linker's own words."""
    options = ["-shared", "-fPIC", "-o", str(output)]
    if sys.platform == "darwin":
        options += ["-undefined", "dynamic_lookup"]
    line = [*command(), *options, *map(str, objects)]
    result = subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)
    if result.returncode:
        words = " ".join((result.stderr or result.stdout).split())[-500:]
        raise StageError(f"linking {output.name} failed: {words}", f"Check that this works: {' '.join(line[:2])}")
