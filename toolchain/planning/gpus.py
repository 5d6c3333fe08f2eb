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
    """`memory` is in bytes, `flops` what a training in bfloat16 reaches a second, `price` dollars an hour.

    None is what is not known.
    """

    name: str
    memory: float
    flops: float | None
    price: float | None


def names() -> list[str]:
    return list(_table()["gpus"])


def find(name: str) -> Gpu:
    """The GPU called `name`. Raises SettingsError when it is not in the table."""
    table = _table()["gpus"]
    if name not in table:
        raise SettingsError(f"there is no GPU '{name}' in the table", suggest(name, table))
    row = table[name]
    flops = row["peak"] * 1e12 * row["utilization"] if "peak" in row else None
    return Gpu(name, row["memory"] * GIB, flops, row.get("price"))


def bandwidth(link: str) -> float:
    """Bytes a second over a link between GPUs."""
    return float(_table()["links"][link]) * 1e9


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "gpus.toml").read_text(encoding="utf-8"))
