"""Nothing that is there already: the suffix's next line, the prefix's last lines, or the completion's own.

Lines are compared as they stand in the file, with their indentation and without blanks at their end; blank lines do
not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, cut, so_far

LONGEST_BLOCK = 16
SIGNIFICANT = 3
"""Letters and digits that a block needs for its second copy to be one too many."""
PATIENCE = 4
"""Copies that a block of less may have after its first."""


@dataclass(frozen=True)
class Line:
    """`start` is where what precedes it ends, so that blank lines belong to the line after them."""

    start: int
    text: str
    whole: bool


def suffix_lines(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Cut before the line that the suffix goes on with."""
    following = cursor.lines_after[0] if cursor.lines_after else ""
    if not _weight(following):
        return Kept(text)
    for line in _lines(cursor, text, ending):
        if line.whole and line.text == following:
            return cut(text, line.start)
        if not line.whole and following.startswith(line.text):
            return so_far(text, line.start, ending)
    return Kept(text)


def echo(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Nothing, when the completion begins with the last lines before the cursor, one of them or several."""
    before = cursor.lines_before
    lengths = range(1, min(LONGEST_BLOCK, len(before)) + 1)
    blocks = [before[-n:] for n in lengths if _weight("".join(before[-n:])) >= SIGNIFICANT]
    for number, line in enumerate(_lines(cursor, text, ending)[:LONGEST_BLOCK]):
        if not line.whole:
            alive = any(block[number].startswith(line.text) for block in blocks)
            return so_far(text, 0, ending) if alive else Kept(text)
        blocks = [block for block in blocks if block[number] == line.text]
        if any(len(block) == number + 1 for block in blocks):
            return cut(text, 0)
    return so_far(text, 0, ending) if blocks else Kept(text)


def loop(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Cut before the second copy of lines that the completion itself has just written."""
    lines = _lines(cursor, text, ending)
    runs = [0] * (LONGEST_BLOCK + 1)
    for number, line in enumerate(lines):
        held = line.start if not line.whole else len(text)
        for length in range(1, min(LONGEST_BLOCK, number) + 1):
            earlier = lines[number - length]
            if not line.whole:
                if earlier.text.startswith(line.text):
                    held = min(held, lines[number - runs[length]].start)
                continue
            if earlier.text != line.text:
                runs[length] = 0
                continue
            runs[length] += 1
            if runs[length] >= length:
                weight = sum(_weight(one.text) for one in lines[number - length + 1 : number + 1])
                copies = runs[length] / length
                if weight >= SIGNIFICANT or copies >= PATIENCE:
                    return cut(text, lines[number - length + 1].start)
        if not line.whole:
            return so_far(text, held, ending)
    return Kept(text)


def _lines(cursor: Cursor, text: str, ending: Ending | None) -> list[Line]:
    """The lines that are not blank, and last the one that is not whole yet, even if nothing of it is there.

    The cursor's line counts from its beginning when only blanks stand before the cursor, and else it equals no line.
    """
    lines = []
    start = at = 0
    pieces = text.split("\n")
    for number, piece in enumerate(pieces):
        growing = ending is None and number == len(pieces) - 1
        if growing or piece.strip():
            full = piece
            if number == 0:
                full = cursor.line_before + piece if cursor.on_blank_line else f"\n{piece}"
            lines.append(Line(start, full.rstrip() if piece.strip() or number == 0 else "", whole=not growing))
            start = at + len(piece)
        at += len(piece) + 1
    return lines


def _weight(text: str) -> int:
    return sum(character.isalnum() for character in text)
