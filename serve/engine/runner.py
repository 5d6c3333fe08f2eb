"""The face of whatever computes logits: compiled code in production, a script in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runner(Protocol):
    """One sequence with a KV cache that the runner owns."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_size(self) -> int:
        """The number of ids that the KV cache has room for."""
        ...

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Write `ids` to the KV cache from `position` on; the logits `(V,)` after the last of them.

        Whatever the cache held at `position` and beyond is forgotten, so rolling back is calling with a lower
        position. Everything below `position` must have been written before.
        """
        ...
