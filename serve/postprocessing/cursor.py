"""Where a completion goes: the text on both sides of the cursor, and what rules ask about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from serve.postprocessing import brackets
from serve.postprocessing.brackets import Bracket

WINDOW = 8000
"""Characters on each side that rules look at: twice what editors send."""
CLOSERS = frozenset(")]}>\"'`;, \t\r")
BRACED = re.compile(r"[{};][ \t\r]*$|^[ \t]*//", re.MULTILINE)
COLONS = re.compile(r":[ \t\r]*$|^[ \t]*(?:# |import |from )", re.MULTILINE)


@dataclass(frozen=True)
class Cursor:
    """The text before and after the cursor, of any length."""

    prefix: str
    suffix: str = ""

    @cached_property
    def before(self) -> str:
        return self.prefix[-WINDOW:]

    @cached_property
    def after(self) -> str:
        return self.suffix[:WINDOW]

    @cached_property
    def line_before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.before[self.before.rfind("\n") + 1 :]

    @cached_property
    def line_after(self) -> str:
        """The cursor's line from the cursor on."""
        return self.after.partition("\n")[0]

    @property
    def on_blank_line(self) -> bool:
        return not self.line_before.strip()

    @property
    def at_line_end(self) -> bool:
        return not self.line_after.strip()

    @cached_property
    def before_text(self) -> bool:
        """Whether text stands right of the cursor, other than what closes something."""
        return not CLOSERS.issuperset(self.line_after)

    @cached_property
    def braced(self) -> bool:
        """Whether the file looks like one of C's relatives: `//` begins comments in it and `#` does not."""
        braces = sum(len(BRACED.findall(text)) for text in (self.before, self.after))
        return braces > sum(len(COLONS.findall(text)) for text in (self.before, self.after))

    @cached_property
    def openers(self) -> tuple[Bracket, ...]:
        """The brackets that are open at the cursor, the innermost last."""
        return brackets.open_at_end(self.before, self.braced)

    @cached_property
    def closers(self) -> tuple[Bracket, ...]:
        """The closing brackets after the cursor that close something before it, the innermost first."""
        return brackets.unopened(self.after, self.braced)

    @cached_property
    def lines_before(self) -> tuple[str, ...]:
        """The whole lines before the cursor's that are not blank."""
        lines = self.before.split("\n")[:-1]
        return tuple(line.rstrip() for line in lines if line.strip())

    @cached_property
    def lines_after(self) -> tuple[str, ...]:
        """The lines after the cursor's that are not blank."""
        return tuple(line.rstrip() for line in self.after.split("\n")[1:] if line.strip())


def indentation(line: str) -> int:
    """The columns of a line's indentation."""
    return brackets.width(line[: len(line) - len(line.lstrip(" \t"))])
