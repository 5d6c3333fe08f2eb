"""The same few words again and again on one line, as models write when they have lost the thread."""

from __future__ import annotations

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, cut, so_far

SHORTEST, LONGEST = 4, 80
"""Characters of what is repeated."""
COPIES = 3
"""That may stand in a row: `None, None, None` is code."""
SIGNIFICANT = 3
"""Letters and digits among them."""


def stutter(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Cut a line that has four copies in a row of the same characters; of the first line three copies are left.

    A line is held back until it is whole, where a whole one comes before it.
    """
    import numpy as np  # the names of rules are wanted where help is shown, which should not wait for it

    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    found: tuple[int, int] | None = None  # where a copy too many is whole, and where it begins
    held = len(text)
    for period in range(SHORTEST, min(LONGEST, len(text) - 1) + 1):
        again = (characters[period:] == characters[:-period]) & (characters[period:] != ord("\n"))
        edges = np.concatenate(([-1], np.flatnonzero(~again), [len(again)]))
        lengths = np.diff(edges) - 1
        most = COPIES * period
        for number in np.flatnonzero(lengths > most - period):
            begin = int(edges[number]) + 1
            if sum(character.isalnum() for character in text[begin : begin + period]) < SIGNIFICANT:
                continue
            if lengths[number] >= most:
                found = min(found or (len(text) + 1, 0), (begin + most + period, begin + most))
                break
            if number == len(lengths) - 1:
                held = min(held, begin + most)
    if found:
        return cut(text, _line_before(text, found[1]) or found[1])
    return so_far(text, min(held, _line_before(text, len(text)) or held), ending)


def _line_before(text: str, at: int) -> int:
    """Where the last whole line before `at` ends; 0 where there is none that says anything."""
    end = text.rfind("\n", 0, at)
    return end if text[: max(end, 0)].strip() else 0
