"""How a training runs here: nothing of it decides what comes out, but for the rounding of another device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True)
class RunSettings:
    device: Device = "auto"
    """What to train on: cuda, mps (Apple's GPUs) or cpu; auto is the first of them that is there."""


HERE = RunSettings()
