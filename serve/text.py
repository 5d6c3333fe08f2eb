"""From token ids to text, and from text to text before a stop string, piece by piece as generation goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNFINISHED = "\ufffd"


class Decoder:
    """Collects ids, and gives whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """The text that `token` makes final; control tokens are none."""
        self._ids.append(token)
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        # A character that is spread over tokens decodes to U+FFFD until its last byte is there.
        whole = text.rstrip(UNFINISHED)
        fresh, self._given = whole[self._given :], max(self._given, len(whole))
        return fresh


class Stopper:
    """Collects text, and gives what no stop string is in or may yet begin in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._text = ""
        self._given = 0
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that `piece` makes final; with a stop string, `stopped` is set and there is no more."""
        self._text += piece
        found = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found))
        return self._give(len(self._text) - self._held_back())

    def finish(self) -> str:
        """What is left when generation has ended without a stop string."""
        return "" if self.stopped else self._give(len(self._text))

    def _give(self, end: int) -> str:
        fresh, self._given = self._text[self._given : end], max(self._given, end)
        return fresh

    def _held_back(self) -> int:
        """The length of the longest ending of the text that may become a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(self._text)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._text[-n:]) for stop in self._stops)), 0)
