"""What a rule of completion is: a pure function from the text so far to the part of it that is final."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serve.postprocessing.cursor import Cursor

Ending = Literal["stop", "length"]
"""Why the text goes no further: of itself, or because the tokens or the time were used up."""


@dataclass(frozen=True)
class Kept:
    """`text` is what the rule lets through by now; with `ended` it is all that the rule will ever let through."""

    text: str
    ended: bool = False


Apply = Callable[[Cursor, str, Ending | None], Kept]


@dataclass(frozen=True)
class Rule:
    """A rule by its name. `apply` takes the cursor, the text so far, and None while more of it may come.

    Whatever comes later, `apply` only ever adds to what it has let through, so that it can be streamed. The text that
    it lets through is a prefix of what it was given, unless the rule's function says otherwise.
    """

    name: str
    apply: Apply


def cut(text: str, at: int) -> Kept:
    """`text` ends at `at`, whatever comes."""
    return Kept(text[:at], ended=True)


def so_far(text: str, at: int, ending: Ending | None) -> Kept:
    """All of an ended text; of one that goes on, what stands before `at`."""
    return Kept(text[:at]) if ending is None else Kept(text)
