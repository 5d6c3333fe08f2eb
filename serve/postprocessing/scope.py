"""End where the block ends that the cursor is in.

In every language a line that is indented less than the cursor's ends it, and so does a closing bracket or quote which
the completion did not open and the suffix already has. Nothing is cut within a string or bracket that the completion
opened itself. A line of closing brackets that the suffix lacks belongs to the block, and what follows it does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from serve.postprocessing import brackets
from serve.postprocessing.brackets import PAIRS, Bracket, Reading
from serve.postprocessing.cursor import Cursor, indentation
from serve.postprocessing.rule import Ending, Kept, cut, so_far

CONTINUATIONS = ("else", "elif", "elsif", "except", "rescue", "finally", "ensure", "catch", "end", "fi", "done", "esac")
PREPROCESSOR = re.compile(r"#\s*(?:if|el|end|def|inc|un|pr|err)")


def scope(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Cut at the end of the block, which after a statement that begins on the cursor's line is that statement's end."""
    if not text.strip():
        return so_far(text, 0, ending)
    begin, quote_end = _string_at_cursor(cursor, text)
    if quote_end is not None:
        return cut(text, quote_end)
    reading = brackets.read(text, cursor.braced, begin)
    if begin:
        reading.spans.insert(0, (0, begin))
    unsure = _first_unsure(reading)
    block, closing = Block.of(cursor, text), Closing.of(cursor)
    rest, spans = iter(reading.brackets), iter(reading.spans)
    bracket, span = next(rest, None), next(spans, None)
    opened: list[Bracket] = []
    last_end = 0
    for number, (start, end) in enumerate(_lines(text)):
        line = text[start:end]
        growing = ending is None and end == len(text)
        while span is not None and span[1] <= start:
            span = next(spans, None)
        within = bool(opened) or (span is not None and span[0] < start)
        if not line.strip():
            block.blank = number > 0
            if growing and number:
                return so_far(text, last_end, ending)
            continue
        if number and not within:
            outside = block.is_left_by(line, growing)
            if outside:
                return cut(text, last_end)
            if outside is None:
                return so_far(text, last_end, ending)
        block.see(line, number)
        while bracket is not None and bracket.at < end:
            if ending is None and bracket.at == unsure:
                return so_far(text, unsure, ending)
            if bracket.character not in PAIRS:
                opened.append(bracket)
            elif brackets.take(opened, bracket) is None and closing.is_there_already(bracket, first=number == 0):
                return cut(text, bracket.at)
            bracket = next(rest, None)
        last_end = end
    return so_far(text, len(text) - _half_a_quote(cursor, text), ending)


@dataclass
class Block:
    """The block that the cursor is in: its indentation, and what of it has been seen."""

    base: int
    statement: bool
    """Whether a statement begins on the cursor's line; the block is that statement then."""
    braced: bool
    deeper: bool = False
    blank: bool = False

    @classmethod
    def of(cls, cursor: Cursor, text: str) -> Block:
        base = indentation(cursor.line_before)
        if cursor.on_blank_line:
            lead = text[: len(text) - len(text.lstrip())]
            first = lead.rfind("\n") + 1
            begun = lead[first:] if first else cursor.line_before + lead
            base = max(base, indentation(begun))
        return cls(base, not cursor.on_blank_line, cursor.braced)

    def is_left_by(self, line: str, growing: bool) -> bool | None:
        """Whether `line` stands outside; None while its first word is not whole."""
        code = line.strip()
        if code[0] in PAIRS or (self.braced and PREPROCESSOR.match(code)):
            return False
        depth = indentation(line)
        if growing and depth <= self.base and (code in "</" or (self.braced and code[0] == "#" and len(code) < 4)):
            return None
        if code.startswith("</"):
            return False
        if depth != self.base or not self.deeper or not (self.statement or (self.base == 0 and self.blank)):
            return depth < self.base
        word = re.match(r"\w*", code)
        assert word is not None
        if growing and word[0] == code and any(one.startswith(code) for one in CONTINUATIONS):
            return None
        return word[0] not in CONTINUATIONS

    def see(self, line: str, number: int) -> None:
        self.blank = False
        if number and indentation(line) > self.base:
            self.deeper = True


@dataclass
class Closing:
    """What closes after the cursor, beside what is open before it."""

    cursor: Cursor
    opened: list[Bracket]
    surplus: int
    """Brackets that the cursor's line opens and nothing after it closes."""

    @classmethod
    def of(cls, cursor: Cursor) -> Closing:
        line = len(cursor.before) - len(cursor.line_before)
        here = [bracket for bracket in reversed(cursor.openers) if bracket.at >= line]
        closed = 0
        for opener, closer in zip(here, cursor.closers, strict=False):
            if PAIRS[closer.character] != opener.character:
                break
            closed += 1
        return cls(cursor, list(cursor.openers), len(here) - closed)

    def is_there_already(self, bracket: Bracket, first: bool) -> bool:
        """Whether the suffix has this closing bracket; `first` when it stands on the completion's first line."""
        opener = brackets.take(self.opened, bracket)
        if not self.cursor.closers or self.cursor.closers[0].character != bracket.character:
            return False
        if self.surplus:
            self.surplus -= 1
            return False
        there = self.cursor.closers[0]
        if there.at < len(self.cursor.line_after):
            return True
        if not there.leads:
            return opener is not None
        leads, depth = bracket.leads, bracket.indentation
        if first:
            leads, depth = leads and self.cursor.on_blank_line, depth + indentation(self.cursor.line_before)
        return (opener is not None and opener.indentation == there.indentation) or (
            leads and depth == there.indentation
        )


def _string_at_cursor(cursor: Cursor, text: str) -> tuple[int, int | None]:
    """Where the string ends that the cursor is in, and its closing quote's place when the suffix has that quote too."""
    quote = _quote(cursor)
    if not quote:
        return 0, None
    after = cursor.after if len(quote) > 1 else cursor.line_after
    end = brackets.close(text, 0, quote)
    if end >= 0:
        return end, end - len(quote) if after.count(quote) % 2 else None
    newline = text.find("\n")
    return (len(text) if quote in brackets.SPANNING or newline < 0 else newline), None


def _quote(cursor: Cursor) -> str:
    """The quote of the string that the cursor is in. A window may begin within a string, so both sides are asked."""
    for quote in ('"""', "'''"):
        if cursor.before.count(quote) % 2 and (cursor.after.count(quote) % 2 or quote not in cursor.after):
            return quote
    quote = brackets.open_quote(cursor.line_before, cursor.braced)
    return "" if len(quote) > 1 else quote


def _half_a_quote(cursor: Cursor, text: str) -> int:
    """The characters at the end of `text` that may become a triple quote which ends it."""
    quote = _quote(cursor)
    return len(text) - len(text.rstrip(quote[0])) if len(quote) > 1 else 0


def _first_unsure(reading: Reading) -> int | None:
    """The first bracket that lies in a string if a quote before it turns out to open one."""
    if reading.apostrophe is None:
        return None
    return next((bracket.at for bracket in reading.brackets if bracket.at > (reading.apostrophe or 0)), None)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Beginning and end of each line, without what ends it."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield start, end
        start = end + 1
    yield start, len(text)
