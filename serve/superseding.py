"""Whether a request leaves an older one without a reader: the same user has typed on, deleted or moved in one file.

Not every editor gives up what it no longer wants. What a request shows of a file, its text before and after the
cursor, tells by itself: both show the same text, but for what was typed or deleted at the cursor. Where windows are
cut differently at their far ends, they agree as far as both go. Raw text is a program's, whose requests never
supersede each other, and neither does a request that asks for the very same again, which wants another sample.
One that only has its prompt read is of no use any more once something else is asked, and supersedes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from serve.requests import CompletionRequest

WINDOW = 4000
"""Characters on either side of the cursor that are looked at."""
SHORTEST_WINDOW = 200
"""No editor sends less where there is more: a side shorter than this reaches to the file's beginning or end."""
MOST_TYPED = 400
NEEDLE = 64
MOST_PLACES = 16
CLOSERS = ")]}>\"'`;, \t\r\n"
"""What editors themselves write behind the cursor when something is opened, and what is typed over then."""


class Side(NamedTuple):
    """The text on one side of a place, from there on outward; where it is `cut` the file may go on."""

    text: str
    cut: bool


def supersedes(newer: CompletionRequest, older: CompletionRequest) -> bool:
    """Whether whoever sent `newer` has no use for the answer to `older`, provided that one client sent both."""
    if not newer.max_tokens or not older.max_tokens:
        return not older.max_tokens
    if newer.is_raw or older.is_raw or (newer.prefix, newer.suffix) == (older.prefix, older.suffix):
        return False
    before, after = _sides(newer.prefix[-WINDOW:], newer.suffix[:WINDOW], newer)
    text = older.prefix[-WINDOW:] + older.suffix[:WINDOW]
    cursor = len(text) - len(older.suffix[:WINDOW].lstrip(CLOSERS))
    for place in (cursor, *_places(after.text, text)):
        older_before, older_after = _sides(text[:place], text[place:], older)
        if _agree(older_after, after) and _differ_by_typing(older_before, before):
            return True
    return False


def _sides(before: str, after: str, request: CompletionRequest) -> tuple[Side, Side]:
    """What stands around a place in the text of `request`, without what closes something there."""
    cut_before, cut_after = (len(text) >= SHORTEST_WINDOW for text in (request.prefix, request.suffix))
    return Side(before.rstrip(CLOSERS)[::-1], cut_before), Side(after.lstrip(CLOSERS), cut_after)


def _places(after: str, text: str) -> Iterator[int]:
    """Where in `text` a cursor may have stood that has `after` behind it; at the end of a file nothing follows."""
    if not after:
        yield len(text)
        return
    at = -1
    for _ in range(MOST_PLACES):
        at = text.find(after[:NEEDLE], at + 1)
        if at < 0:
            return
        yield at


def _differ_by_typing(one: Side, other: Side) -> bool:
    """Whether they agree but for what somebody can have typed or deleted at once at the place."""
    return any(_agree(one, other, n) or _agree(other, one, n) for n in range(MOST_TYPED + 1))


def _agree(one: Side, other: Side, skipped: int = 0) -> bool:
    """Whether `one` is `other` without its first `skipped` characters, as far as both go, if one of them is cut."""
    short, long = len(one.text), len(other.text) - skipped
    if long < short:
        return other.cut and 2 * long >= short and one.text.startswith(other.text[skipped:])
    return (short == long or (one.cut and 2 * short >= long)) and other.text.startswith(one.text, skipped)
