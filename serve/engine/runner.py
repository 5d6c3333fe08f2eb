"""The face of whatever runs a model for one sequence."""

from __future__ import annotations

from collections.abc import Sequence
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
