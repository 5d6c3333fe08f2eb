"""Which ids the runner's KV cache holds, so that a new prompt can keep what it shares with the last one."""

from __future__ import annotations

from collections.abc import Sequence


class CachedIds:
    """The ids at positions 0, 1, 2 … of the KV cache."""

    def __init__(self) -> None:
        self._ids: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def reusable(self, prompt: Sequence[int]) -> int:
        """How many of `prompt`'s first ids need no computing: all but one at most, whose logits are wanted."""
        limit = min(len(self._ids), len(prompt) - 1)
        return next((place for place in range(limit) if self._ids[place] != prompt[place]), max(limit, 0))

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        del self._ids[length:]

    def extend(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
