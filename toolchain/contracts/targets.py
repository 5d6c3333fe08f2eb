"""The devices that a library can be compiled for, by the names that users type.

`cpu` is this machine's processor; a level of `processors.LEVELS` is that on this operating system. `cuda` and `vulkan`
are graphics devices under this operating system, `metal` those of Apple's computers. `-linux`, `-macos` or `-windows`
behind a name makes it another system (`arm64-macos`, `cuda-windows`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from toolchain.contracts import processors
from toolchain.contracts.errors import UnknownTarget
from toolchain.contracts.settings import suggest

Device = Literal["cpu", "cuda", "metal", "vulkan"]
System = Literal["linux", "macos", "windows"]
SYSTEMS: tuple[System, ...] = ("linux", "macos", "windows")
GPUS: dict[Device, tuple[System, ...]] = {
    "cuda": ("linux", "windows"),
    "metal": ("macos",),
    "vulkan": ("linux", "windows"),
}
# An archive of objects needs no linker; GPU modules are looked for in shared libraries where one can be linked.
EXTENSIONS = {"linux": "so", "macos": "dylib", "windows": "a"}
# What drives a GPU runs on the processor, and on every one that such a machine may have.
HOSTS = {"linux": "x86-64-v2", "windows": "x86-64-v2", "macos": "arm64"}


@dataclass(frozen=True)
class Target:
    """A device under an operating system; `level` is that of the processor, for a GPU of the one that drives it.

    `archs` are the GPU architectures that a CUDA library holds code for.
    """

    device: Device
    level: str
    system: System
    archs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that says everything, in bundles and file names."""
        return f"{self.level if self.device == 'cpu' else self.device}-{self.system}"

    @property
    def extension(self) -> str:
        """That of the library's file."""
        return "a" if self.device == "cpu" else EXTENSIONS[self.system]


def this_system() -> System:
    return "macos" if sys.platform == "darwin" else "windows" if sys.platform == "win32" else "linux"


def parse_target(name: str) -> Target:
    """The target called `name`. Raises UnknownTarget with the names that exist."""
    if name == "cpu":
        return Target("cpu", processors.native().name, this_system())
    system = next((system for system in SYSTEMS if name.endswith(f"-{system}")), None)
    base = name.removesuffix(f"-{system}")
    if base in processors.LEVELS:
        return Target("cpu", base, system or this_system())
    for device, systems in GPUS.items():
        if base == device:
            system = system or (this_system() if this_system() in systems else systems[0])
            if system in systems:
                return Target(device, HOSTS[system], system)
    raise UnknownTarget(f"unknown target '{name}'", suggest(name, ("cpu", *processors.LEVELS, *GPUS)))


def unfit(target: Target) -> str | None:
    """Why this machine's system or processor cannot run a library for `target`; None when they can."""
    if target.system != this_system():
        return f"it is for {target.system}"
    level = processors.LEVELS[target.level]
    if level.machine != processors.machine():
        return f"it is for {level.machine}, and this machine is {processors.machine()}"
    lacking = processors.missing(level)
    return f"this machine's processor lacks {', '.join(lacking)}" if lacking else None


def rank(target: Target) -> tuple[int, int]:
    """Greater for the target that is better to run on, of those that a machine can run."""
    devices: tuple[Device, ...] = ("cpu", "vulkan", "metal", "cuda")
    return devices.index(target.device), list(processors.LEVELS).index(target.level)
