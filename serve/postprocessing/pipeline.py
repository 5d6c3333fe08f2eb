"""Rules in a row, over a whole text or as it streams.

A pipeline is a tuple of rules, each of which sees what the one before it let through. To measure what a rule is worth,
build a tuple without it and give it the same completions; no server is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, Rule

Pipeline = tuple[Rule, ...]


def process(pipeline: Sequence[Rule], prefix: str, suffix: str, completion: str, ending: Ending = "stop") -> str:
    """What is left of a whole completion."""
    return apply(pipeline, Cursor(prefix, suffix), completion, ending).text


def apply(pipeline: Sequence[Rule], cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """The part of `text` that is final by every rule. Where a rule has cut, the text ended of itself for the rest."""
    for rule in pipeline:
        kept = rule.apply(cursor, text, ending)
        text, ending = kept.text, "stop" if kept.ended else ending
    return Kept(text, ended=ending is not None)


class Stream:
    """A completion on its way through a pipeline: pieces go in, and pieces that are final come out."""

    def __init__(self, pipeline: Sequence[Rule], cursor: Cursor) -> None:
        self._pipeline, self._cursor = tuple(pipeline), cursor
        self._taken, self._given = "", 0
        self.ended = False

    def push(self, piece: str) -> str:
        """The text that `piece` makes final. Once the stream has `ended`, no further piece changes anything."""
        self._taken += piece
        return self._give(None) if piece else ""

    def finish(self, ending: Ending) -> str:
        """What is left when no more comes."""
        return self._give(ending)

    def _give(self, ending: Ending | None) -> str:
        if self.ended:
            return ""
        kept = apply(self._pipeline, self._cursor, self._taken, ending)
        fresh, self._given, self.ended = kept.text[self._given :], len(kept.text), kept.ended
        return fresh
