"""The devices that a library can be compiled for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from toolchain.contracts.errors import UnknownTarget


@dataclass(frozen=True)
class Target:
    """A device to compile for; `extension` is the file name ending of its library on this kind of system."""

    name: str
    extension: str


TARGETS = {target.name: target for target in (Target("cpu", "so"),)}
PLANNED = ("cuda", "metal", "vulkan")


def parse_target(name: str) -> Target:
    """The target called `name`. Raises UnknownTarget with the names that exist."""
    if name in TARGETS:
        return TARGETS[name]
    known = ", ".join(TARGETS)
    if name in PLANNED:
        raise UnknownTarget(
            f"the target '{name}' cannot be built by this version", f"Use --target with one of: {known}."
        )
    close = difflib.get_close_matches(name, [*TARGETS, *PLANNED], n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise UnknownTarget(f"unknown target '{name}'", f"Use --target with one of: {known}.{hint}")
