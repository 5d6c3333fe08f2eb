"""GPUs that can be planned for, and what connects several of them. The figures and their sources are in `gpus.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import suggest

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes, `flops` in bfloat16 that a training reaches a second, `price` in dollars an hour if known."""

    name: str
    memory: float
    flops: float
    price: float | None


def names() -> list[str]:
    return list(_table()["gpus"])


def find(name: str) -> Gpu:
    """The GPU called `name`. Raises SettingsError when it is not in the table."""
    table = _table()["gpus"]
    if name not in table:
        raise SettingsError(f"there is no GPU '{name}' in the table", suggest(name, table))
    row = table[name]
    return Gpu(name, row["memory"] * GIB, row["peak"] * 1e12 * row["utilization"], row["price"])


def bandwidth(link: str) -> float:
    """Bytes a second over a link between GPUs."""
    return float(_table()["links"][link]) * 1e9


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "gpus.toml").read_text(encoding="utf-8"))
