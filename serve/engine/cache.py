"""What the KV cache holds, so that a new prompt computes only what it adds."""

from __future__ import annotations

from collections.abc import Sequence


class CachedIds:
    """The ids whose keys and values are in the cache, by position."""

    def __init__(self) -> None:
        self._ids: list[int] = []

    def reusable(self, prompt: Sequence[int]) -> int:
        """How many leading tokens of `prompt` are cached already; at least one is left, whose logits are needed."""
        limit = min(len(self._ids), len(prompt) - 1)
        return next((at for at in range(limit) if self._ids[at] != prompt[at]), limit)

    def write(self, ids: Sequence[int], position: int) -> None:
        """`ids` are in the cache from `position` on, and nothing behind them."""
        self._ids[position:] = ids

    def forget(self, position: int) -> None:
        """What lies from `position` on can no longer be relied on."""
        del self._ids[position:]
