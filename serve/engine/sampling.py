"""Choosing the next token from logits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.errors import StageError


@dataclass(frozen=True)
class Sampling:
    """How to choose; the default is greedy, which suits a copilot best."""

    temperature: float = 0.0
    """0 takes the likeliest token; higher values flatten the distribution."""

    top_p: float = 1.0
    """Sample among the fewest tokens that together have this probability; 1 is all of them."""

    top_k: int = 0
    """Sample among this many likeliest tokens; 0 is all of them."""

    seed: int | None = None
    """The same seed gives the same tokens; unset, every call differs."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred before become less likely."""

    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def pick(
    logits: NDArray[np.float32], sampling: Sampling, random: np.random.Generator, seen: Collection[int] = ()
) -> int:
    """The next token id. `seen` are the ids that the repetition penalty applies to.

    Raises StageError when a logit is not finite: the weights or the library are broken, and any token would be noise.
    """
    if not np.isfinite(logits).all():
        raise StageError("The model produced numbers that are not finite", "Compile the bundle again.")
    if sampling.repetition_penalty != 1.0 and seen:
        logits = _penalised(logits, sampling.repetition_penalty, seen)
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    # Differences first: a logit divided by a minute temperature could overflow.
    scaled = (logits.astype(np.float64) - float(logits.max())) / sampling.temperature
    candidates = np.arange(len(scaled))
    if 0 < sampling.top_k < len(scaled):
        candidates = np.sort(np.argpartition(-scaled, sampling.top_k - 1)[: sampling.top_k])
    chances = np.exp(scaled[candidates])
    chances /= chances.sum()
    if sampling.top_p < 1.0:
        kept = _nucleus(chances, sampling.top_p)
        candidates, chances = candidates[kept], chances[kept] / chances[kept].sum()
    return int(random.choice(candidates, p=chances))


def _nucleus(chances: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """The places of the fewest, likeliest entries whose sum reaches `top_p`."""
    # Entries of at most (1 - top_p) / n sum to at most 1 - top_p, so the rest reaches top_p: sorting those is enough.
    worth = np.flatnonzero(chances > (1.0 - top_p) / len(chances))
    if not len(worth):
        worth = np.arange(len(chances))
    order = worth[np.argsort(-chances[worth], kind="stable")]
    count = int(np.searchsorted(np.cumsum(chances[order]), top_p)) + 1
    return order[:count]


def _penalised(logits: NDArray[np.float32], penalty: float, seen: Collection[int]) -> NDArray[np.float32]:
    changed = logits.copy()  # the runner may own the memory
    ids = np.fromiter(set(seen), np.int64)
    values = changed[ids]
    changed[ids] = np.where(values > 0, values / penalty, values * penalty)
    return changed
