"""Processors that CPU libraries are built for: levels that many machines share, and which of them this machine has.

The x86-64 levels are those of the System V psABI; LLVM and C compilers know them by the same names. A library is built
for a level, never for one model of processor, so that what it needs can be told and checked before it runs.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from toolchain.contracts.errors import UnknownTarget

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Level:
    """`features`, by the kernel's names, come on top of those of the level before. `lanes` are float32 in a register.

    Of ARM's 128-bit registers a kernel works on two at once.
    """

    name: str
    machine: str
    lanes: int
    features: tuple[str, ...] = ()
    before: str | None = None


V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
V3 = ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
V4 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
LEVELS = {
    level.name: level
    for level in (
        Level("x86-64-v2", "x86_64", 8, V2),
        Level("x86-64-v3", "x86_64", 8, V3, before="x86-64-v2"),
        Level("x86-64-v4", "x86_64", 16, V4, before="x86-64-v3"),
        Level("arm64", "arm64", 8),
    )
}
# Windows tells of single features by number (winnt.h); the others of a level come with them in every processor made.
WINDOWS_FEATURES = {"x86-64-v2": 38, "x86-64-v3": 40, "x86-64-v4": 41}


def machine() -> str:
    """This machine's architecture: x86_64 or arm64, or what Python calls another."""
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())


def missing(level: Level) -> list[str]:
    """The features of `level` that this machine's processor lacks; the machine itself when that is another."""
    if level.machine != machine():
        return [level.machine]
    if level.machine == "arm64":
        return []
    if sys.platform == "win32":
        return [] if _windows_has(WINDOWS_FEATURES[level.name]) else [level.name]
    have = _flags()
    lacking: list[str] = []
    current: Level | None = level
    while current:
        lacking = [feature for feature in current.features if feature not in have] + lacking
        current = LEVELS[current.before] if current.before else None
    return lacking


def native() -> Level:
    """The highest level that this machine has. Raises UnknownTarget when it has none."""
    for level in reversed(LEVELS.values()):
        if not missing(level):
            return level
    raise UnknownTarget(
        f"this machine's processor ({platform.machine()}) is older or other than any that Fimble builds for",
        f"Supported: {', '.join(LEVELS)}.",
    )


@cache
def _flags() -> frozenset[str]:
    """The processor's features by Linux's names; macOS tells some of them by the same names, in capitals."""
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    return frozenset()


def _windows_has(feature: int) -> bool:
    import ctypes

    return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(feature))  # type: ignore[attr-defined, unused-ignore]
