"""The learning rate over the steps: a linear warm-up, then a cosine to zero or a constant rate."""

from __future__ import annotations

import math

from train.settings import TrainSettings


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate of `step`, from 1 to `steps`; the warm-up takes at most half of them."""
    peak, warmup = settings.peak_learning_rate, min(settings.warmup_steps, steps // 2)
    if step <= warmup:
        return peak * step / warmup
    if settings.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / max(1, steps - warmup)))
