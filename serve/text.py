"""From token ids to text while they come: whole characters only, and nothing beyond a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextDecoder:
    """Decodes a growing sequence of ids. Special tokens give no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Text up to `_read` is out. Decoding begins a little earlier, at `_start`, because some tokenizers treat the
        # first token of a text differently from the others.
        self._start = 0
        self._read = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is still in the making."""
        self._ids.append(token)
        new = self._new()
        if not new or new.endswith(REPLACEMENT):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return new

    def finish(self) -> str:
        """What was held back, without the half of a character at its end."""
        new = self._new().rstrip(REPLACEMENT)
        self._start = self._read = len(self._ids)
        return new

    def _new(self) -> str:
        before = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class StopMatcher:
    """Passes text on until a stop string occurs in it, wherever the pieces are cut."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """The text that certainly comes before any stop string."""
        if self.matched:
            return ""
        self._held += text
        places = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if places:
            self.matched = True
            return self._held[: min(places)]
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return out

    def finish(self) -> str:
        """What was held back as the possible beginning of a stop string."""
        held, self._held = self._held, ""
        return "" if self.matched else held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
