"""Choosing the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.errors import StageError


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0; `top_k` 0 and `top_p` 1 leave all tokens in. A seed makes a completion repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


def choose(logits: NDArray[np.float32], sampling: Sampling, draw: np.random.Generator) -> int:
    """The next token. Raises StageError when the model gave something that is no number."""
    if not np.isfinite(logits).all():
        raise StageError("the model gave logits that are not numbers", "Check the bundle: fimble inspect --verify.")
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    share = np.exp(scaled - scaled[0])
    share /= share.sum()
    # Nucleus sampling: the fewest tokens that hold `top_p`, the one that crosses it included.
    kept = int(np.searchsorted(np.cumsum(share), sampling.top_p)) + 1
    share = share[:kept] / share[:kept].sum()
    return int(order[draw.choice(len(share), p=share)])
