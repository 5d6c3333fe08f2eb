"""Choosing the next token from logits."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.errors import SettingsError, StageError


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0; `top_k` 0 and `top_p` 1 leave all tokens in. A seed makes a completion repeatable.

    A repetition penalty above 1 makes tokens that occurred before less likely.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SettingsError(f"a temperature of {self.temperature} cannot be used", "Give 0 (greedy) or more.")
        if not 0 <= self.top_p <= 1:
            raise SettingsError(f"a top_p of {self.top_p} cannot be used", "Give a share from 0 to 1.")
        if self.top_k < 0:
            raise SettingsError(f"a top_k of {self.top_k} cannot be used", "Give a count of tokens, or 0 for all.")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise SettingsError(
                f"a repetition penalty of {self.repetition_penalty} cannot be used",
                "Give 1 for none, or a little more.",
            )


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    draw: np.random.Generator,
    seen: Collection[int] = (),
    among: NDArray[np.int64] | None = None,
) -> int:
    """The next token, of all or of the ids `among`; `seen` are the ids that the repetition penalty is for.

    Raises StageError when the model gave something that is no number.
    """
    if not np.isfinite(logits).all():
        raise StageError("the model gave logits that are not numbers", "Check the bundle: fimble inspect --verify.")
    if sampling.repetition_penalty != 1.0 and seen:
        logits = _penalised(logits, sampling.repetition_penalty, seen)
    if among is not None:
        return int(among[choose(logits[among], replace(sampling, repetition_penalty=1.0), draw)])
    if sampling.temperature == 0:
        return int(logits.argmax())
    candidates = np.arange(len(logits))
    if 0 < sampling.top_k < len(logits):
        candidates = np.sort(np.argpartition(-logits, sampling.top_k - 1)[: sampling.top_k])
    # The difference first, then the division: a logit over a minute temperature could overflow.
    below = logits[candidates].astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):  # to minus infinity, whose share is 0
        share = np.exp(below / sampling.temperature)
    share /= share.sum()
    if sampling.top_p < 1:
        kept = _nucleus(share, below, sampling.top_p)
        candidates, share = candidates[kept], share[kept] / share[kept].sum()
    return int(candidates[draw.choice(len(share), p=share)])


def _nucleus(share: NDArray[np.float64], rank: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """The fewest, likeliest places that hold `top_p` together, the one that crosses it included.

    `rank` orders them: logits that differ may have shares that are equal as numbers go.
    """
    # What has at most (1 - top_p) / n adds up to at most 1 - top_p, so the others hold top_p: only those are sorted.
    worth = np.flatnonzero(share > (1 - top_p) / len(share))
    if not len(worth):
        worth = np.arange(len(share))
    order = worth[np.argsort(-rank[worth], kind="stable")]
    return order[: int(np.searchsorted(np.cumsum(share[order]), top_p)) + 1]


def _penalised(logits: NDArray[np.float32], penalty: float, seen: Collection[int]) -> NDArray[np.float32]:
    changed = logits.copy()  # the memory may be the runner's
    ids = np.fromiter(seen, np.int64)
    changed[ids] = np.where(changed[ids] > 0, changed[ids] / penalty, changed[ids] * penalty)
    return changed
