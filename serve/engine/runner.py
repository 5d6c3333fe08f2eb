"""The face of whatever runs a model for one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runner(Protocol):
    """A model with a KV cache of `context_size` tokens."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_size(self) -> int: ...

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Write `ids` to the cache from `position` on, and give the logits `[V]` after the last of them.

        The cache up to `position` is kept; rolling back is calling with a lower one.
        """
        ...


def parts(ids: Sequence[int], position: int, most: int) -> Iterator[tuple[Sequence[int], int]]:
    """`most` ids at a time, each part with its position."""
    for begin in range(0, len(ids), most):
        yield ids[begin : begin + most], position + begin


def refuse_unfit(runner: Runner, ids: Sequence[int], position: int) -> None:
    """Raise ValueError for ids that are none, unknown, or beyond the context."""
    if not ids or position < 0 or position + len(ids) > runner.context_size:
        raise ValueError(f"{len(ids)} tokens at {position} do not fit a context of {runner.context_size}")
    if min(ids) < 0 or max(ids) >= runner.vocab_size:
        raise ValueError(f"a token id lies outside the vocabulary of {runner.vocab_size}")
