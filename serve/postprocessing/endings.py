"""How a completion ends: on the cursor's line, on a whole line, and without what stands right of the cursor."""

from __future__ import annotations

import re
from string import whitespace

from serve.postprocessing import brackets
from serve.postprocessing.brackets import PAIRS
from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, cut

LONGEST_REST = 1000
SIGNS = re.compile(r"[^\w\s()\[\]{}]{1,8}")
QUOTES = "\"'`"


def one_line(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Stay on the cursor's line when text stands right of the cursor, other than what closes something."""
    if not cursor.before_text:
        return Kept(text)
    end = text.find("\n")
    return cut(text, end) if end >= 0 else Kept(text)


def whole_lines(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """When tokens or time ran out, drop the line that is not whole if a whole one comes before it."""
    end = text.rfind("\n")
    if ending == "stop" or not text[: max(end, 0)].strip():
        return Kept(text)
    return Kept(text[:end])


def overlap(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Drop from the end what stands right of the cursor already: all of it, or the signs that it begins with.

    A string or bracket that the completion opened itself keeps its end; closing brackets are what `scope` decides on.
    """
    full, rest = cursor.line_after.rstrip(), cursor.line_after.strip()
    if not rest or rest[0] in PAIRS or len(rest) > LONGEST_REST:
        return Kept(text)
    if ending is None:
        return Kept(text.rstrip("".join({*full, *whitespace})))
    signs = SIGNS.match(rest)
    repeated = [full, rest, *(rest[:n] for n in range(signs.end() if signs else 0, 0, -1))]
    depths = _depths(text, cursor.braced)
    at = end = len(text)
    while end:
        while end and text[end - 1] in whitespace:
            end -= 1
        found = next((one for one in repeated if text.endswith(one, 0, end)), "")
        if not found or depths[end - len(found)] or _closes_own_string(text, end - len(found)):
            break
        at = end = end - len(found)
    return Kept(text[:at])


def trailing(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Drop blanks and empty lines from the end where nothing stands right of the cursor."""
    return Kept(text.rstrip() if cursor.at_line_end else text)


def _depths(text: str, braced: bool) -> list[int]:
    """Before each character, how many brackets are open that `text` opened itself."""
    depths = [0] * (len(text) + 1)
    stack: list[brackets.Bracket] = []
    done = 0
    for bracket in brackets.read(text, braced).brackets:
        depths[done : bracket.at + 1] = [len(stack)] * (bracket.at + 1 - done)
        done = bracket.at + 1
        if bracket.character in PAIRS:
            brackets.take(stack, bracket)
        else:
            stack.append(bracket)
    depths[done:] = [len(stack)] * (len(text) + 1 - done)
    return depths


def _closes_own_string(text: str, at: int) -> bool:
    """Whether the quote at `at` ends a string that begins on the same line of `text`."""
    return text[at] in QUOTES and text.count(text[at], text.rfind("\n", 0, at) + 1, at) % 2 == 1
