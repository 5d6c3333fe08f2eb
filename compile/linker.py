"""Linking object files to a shared library, for this system with what it has, for others with ziglang from PyPI."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from toolchain.contracts.errors import MissingExtra, StageError
from toolchain.contracts.processors import LEVELS, machine
from toolchain.contracts.targets import Target, this_system

ZIG_SYSTEMS = {"linux": "linux-gnu", "macos": "macos.11.0", "windows": "windows-gnu"}
ZIG_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}


def command(target: Target) -> list[str]:
    """The start of a command line that links objects for `target`. Raises MissingExtra when there is none."""
    level = LEVELS[target.level]
    if target.system == this_system() and level.machine == machine():
        for name in ("cc", "gcc", "clang"):
            found = shutil.which(name)
            if found:
                return [found]
    if importlib.util.find_spec("ziglang"):
        # -P: a ziglang.py in the user's folder must not be run in its place.
        zig = [sys.executable, "-P", "-m", "ziglang", "cc"]
        return [*zig, "-target", f"{ZIG_MACHINES[level.machine]}-{ZIG_SYSTEMS[target.system]}"]
    raise MissingExtra(f"there is no linker for {target.name} on this machine", "Run: pip install ziglang")


def link(output: Path, objects: Sequence[Path], target: Target) -> None:
    """Link `objects` to the shared library `output`. Raises StageError with the linker's own words."""
    options = ["-shared", "-fPIC", "-o", str(output)]
    if target.system == "macos":
        options.append("-Wl,-undefined,dynamic_lookup")
    line = [*command(target), *options, *map(str, objects)]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    if result.returncode:
        words = " ".join((result.stderr or result.stdout).split())[-500:]
        raise StageError(f"linking {output.name} failed: {words}", f"Check that this works: {' '.join(line[:4])}")
