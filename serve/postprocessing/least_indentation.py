"""End at a line that is indented less than the client allows, which llama.cpp's editors send as `n_indent`.

No rule of the server's own: it is there where a request asks for it, and leaves the cursor's line and blank ones alone.
"""

from __future__ import annotations

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, Rule, cut, so_far


def least_indentation(characters: int) -> Rule:
    """The rule for lines that begin with fewer spaces and tabs than `characters`."""

    def apply(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
        first, *lines = text.split("\n")
        kept = at = len(first)
        for line in lines:
            at += 1 + len(line)
            if not line.strip():
                continue
            if len(line) - len(line.lstrip(" \t")) < characters:
                return cut(text, kept)
            kept = at
        return so_far(text, kept, ending)

    return Rule("least-indentation", apply)
