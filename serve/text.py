"""From token ids to text, piece by piece, as generation goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNFINISHED = "\ufffd"


class TextStream:
    """Collects ids, and gives text that is final: no half of a character, nothing of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._given = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that `token` makes final."""
        self._ids.append(token)
        text = self._decode()
        # A character that is spread over tokens decodes to U+FFFD until its last byte is there.
        whole = text.rstrip(UNFINISHED)
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(whole[: min(found)])
        return self._give(whole[: len(whole) - self._held_back(whole)])

    def finish(self) -> str:
        """What is left when generation has ended without a stop string."""
        return "" if self.stopped else self._give(self._decode().rstrip(UNFINISHED))

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _give(self, text: str) -> str:
        fresh, self._given = text[self._given :], max(self._given, len(text))
        return fresh

    def _held_back(self, text: str) -> int:
        """The length of the longest ending of `text` that may become a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
