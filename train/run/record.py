"""What a run knows of itself: saved with its states, and told by its artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Point:
    """One evaluation. `train_loss` is the mean since the one before, `learning_rate` that of the step itself."""

    step: int
    train_loss: float | None
    loss: float
    bits_per_byte: float
    learning_rate: float | None = None


@dataclass
class Record:
    """What a run knows of itself, and what its artifact will say of it: no times, so that it can be repeated."""

    step: int = 0
    tokens: int = 0
    curve: list[Point] = field(default_factory=list)
    best: Point | None = None
    losses: list[float] = field(default_factory=list)
    """The training loss of every step."""
    threads: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        points = {"curve": [Point(**point) for point in content["curve"]]}
        return cls(**content | points | {"best": Point(**content["best"]) if content["best"] else None})
