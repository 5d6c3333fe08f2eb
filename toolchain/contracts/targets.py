"""The devices that a library can be compiled for, by the names that users type.

`cpu` is this machine's processor, `LEVEL` one of `processors.LEVELS` on this operating system, `LEVEL-SYSTEM` the same
on another (`arm64-macos`); `cuda`, `metal` and `vulkan` are graphics devices.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from toolchain.contracts import processors
from toolchain.contracts.errors import UnknownTarget
from toolchain.contracts.settings import suggest

System = Literal["linux", "macos", "windows"]
SYSTEMS: tuple[System, ...] = ("linux", "macos", "windows")
PLANNED = ("cuda", "metal", "vulkan")


@dataclass(frozen=True)
class Target:
    """A processor level on an operating system."""

    level: str
    system: System

    @property
    def name(self) -> str:
        """The name that says everything, in bundles and file names."""
        return f"{self.level}-{self.system}"


def this_system() -> System:
    return "macos" if sys.platform == "darwin" else "windows" if sys.platform == "win32" else "linux"


def parse_target(name: str) -> Target:
    """The target called `name`. Raises UnknownTarget with the names that exist."""
    if name == "cpu":
        return Target(processors.native().name, this_system())
    for system in SYSTEMS:
        level = name.removesuffix(f"-{system}")
        if level != name and level in processors.LEVELS:
            return Target(level, system)
    if name in processors.LEVELS:
        return Target(name, this_system())
    known = ("cpu", *processors.LEVELS)
    if name in PLANNED:
        raise UnknownTarget(
            f"the target '{name}' cannot be built by this version", f"Use --target with one of: {', '.join(known)}."
        )
    raise UnknownTarget(f"unknown target '{name}'", suggest(name, known))


def unfit(target: Target) -> str | None:
    """Why a library for `target` cannot run on this machine; None when it can."""
    if target.system != this_system():
        return f"it is for {target.system}"
    lacking = processors.missing(processors.LEVELS[target.level])
    return f"this machine's processor lacks {', '.join(lacking)}" if lacking else None


def rank(target: Target) -> int:
    """Greater for the target that is better to run on, of those that a machine can run."""
    return list(processors.LEVELS).index(target.level)
