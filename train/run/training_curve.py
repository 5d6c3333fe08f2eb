"""Training losses step by step, as an artifact keeps them for `fimble report`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

MOST_POINTS = 500


def points(losses: Sequence[float], rate: Callable[[int], float], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """`losses` of step 1 and on as at most `most` points: the mean of as many steps each, at the last of them.

    `rate` gives a step's learning rate.
    """
    size = max(1, math.ceil(len(losses) / most))
    ends = [min(at + size, len(losses)) for at in range(0, len(losses), size)]
    return [
        {"step": end, "loss": round(sum(part) / len(part), 6), "learning_rate": rate(end)}
        for end in ends
        for part in [losses[(end - 1) // size * size : end]]
    ]
