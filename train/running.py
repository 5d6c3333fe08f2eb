"""How a training runs here: nothing of it decides what comes out, but for the rounding of another device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.contracts import extras

Device = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True)
class RunSettings:
    """What may differ between two runs of one training."""

    device: Device = "auto"
    """What to train on: cuda, mps (Apple's GPUs) or cpu; auto is the first of them that is there."""

    track: str | None = None
    """A folder for curves of the training, as TensorBoard's event files; nothing leaves this machine."""

    def check(self) -> None:
        """Raise MissingExtra for what these settings need and is not there."""
        if self.track:
            extras.need("tensorboard")


HERE = RunSettings()
