"""Nothing rather than noise."""

from __future__ import annotations

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.rule import Ending, Kept, cut, so_far
from toolchain.contracts.fim import KNOWN

CONTROL = tuple(sorted({token for spec in KNOWN for token in spec.control_tokens}))
LONGEST = max(map(len, CONTROL))
MOJIBAKE = "\ufffd"


def control(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """End before a control token that is spelled out, unless the file has it too, and before a broken character."""
    marks = [MOJIBAKE, *(token for token in CONTROL if token not in cursor.before and token not in cursor.after)]
    found = [at for mark in marks if (at := text.find(mark)) >= 0]
    if found:
        return cut(text, min(found))
    tail = text[-LONGEST:]
    begun = (n for n in range(len(tail), 0, -1) if any(mark.startswith(tail[-n:]) for mark in marks))
    return so_far(text, len(text) - next(begun, 0), ending)


def noise(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Nothing, when there are only blanks, or only signs that the suffix begins with."""
    signs = text.strip()
    if any(character.isalnum() for character in signs):
        return Kept(text)
    if ending is None:
        return Kept("")
    return cut(text, 0) if cursor.after.lstrip().startswith(signs) else Kept(text)
