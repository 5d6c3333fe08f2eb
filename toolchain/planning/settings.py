"""The machine that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.settings import at_least, check

Link = Literal["published", "pcie", "nvlink"]


@dataclass(frozen=True)
class MachineSettings:
    gpu: str | None = None
    """The GPU to plan for, by its name in the table; this machine unless given."""

    count: int = 1
    """How many of them share the training."""

    link: Link = "published"
    """What connects several: nvlink or pcie, at NCCL's measured rates, or published, at the reference's pace."""

    price: float | None = None
    """Dollars an hour for one; the table's unless given."""

    def __post_init__(self) -> None:
        at_least("--count", self.count, 1)
        check("--price", self.price, self.price is None or self.price >= 0, "a number of 0 or more")
