"""A reader of source in any language, as far as brackets, strings and comments go.

A quote opens a string only where it closes again on its line; else it is an apostrophe. Backticks and triple quotes
span lines. All this is a guess, the language being unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PAIRS = {")": "(", "]": "[", "}": "{"}
SPANNING = ('"""', "'''", "`")
FENCE = "```"
TAB = 4
DEPTH = 64
"""How far out a closing bracket looks for what it closes."""

TOKEN = re.compile(
    r"""(?P<escape>\\.)
    |(?P<lifetime>(?<=[&<])'[A-Za-z_]\w*(?!['\w])|'[a-z](?=[>,:]))
    |(?P<quote>\"{3}|'{3}|`{3}|["'`])
    |(?P<comment>//|/\*|\#(?![\w\[!{(]))
    |(?P<bracket>[()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
INDENTATION = re.compile(r"[ \t]*")


@dataclass(frozen=True)
class Bracket:
    """A bracket: its character, where it stands, its line's indentation and whether it is the first on that line."""

    character: str
    at: int
    indentation: int
    leads: bool


@dataclass
class Reading:
    """The brackets outside strings and comments, and where strings and comments lie that may span lines.

    `apostrophe` is a quote on the last line that does not close there: with what follows, it may yet be a string.
    """

    brackets: list[Bracket] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    apostrophe: int | None = None


def read(text: str, braced: bool, start: int = 0) -> Reading:
    """What there is from `start` on; `braced` languages have `//` comments, others `#`."""
    reading = Reading()
    at, seen = start, 0
    indentation = INDENTATION.match(text)
    while found := TOKEN.search(text, at):
        kind, token, begin = found.lastgroup, found[0], found.start()
        at = found.end()
        if kind == "bracket":
            newline = text.rfind("\n", seen, begin)
            if newline >= 0:
                indentation = INDENTATION.match(text, newline + 1)
            seen = begin
            assert indentation is not None
            reading.brackets.append(Bracket(token, begin, width(indentation[0]), begin == indentation.end()))
        elif kind == "quote" and token != FENCE:
            end = close(text, at, token)
            if token in SPANNING:
                at = end if end >= 0 else len(text)
                reading.spans.append((begin, at))
            elif end >= 0:
                at = end
            elif text.find("\n", at) < 0 and reading.apostrophe is None:
                reading.apostrophe = begin
        elif kind == "comment" and _begins_comment(text, begin, token, braced):
            end = text.find("*/" if token == "/*" else "\n", at)
            at = end if end >= 0 else len(text)
            if token == "/*":
                reading.spans.append((begin, at))
    return reading


def open_at_end(text: str, braced: bool) -> tuple[Bracket, ...]:
    """The brackets that `text` opens and does not close, the innermost last."""
    stack: list[Bracket] = []
    for bracket in read(text, braced).brackets:
        if bracket.character in PAIRS:
            take(stack, bracket)
        else:
            stack.append(bracket)
    return tuple(stack)


def unopened(text: str, braced: bool) -> tuple[Bracket, ...]:
    """The closing brackets that `text` does not open, in order."""
    stack: list[Bracket] = []
    found = []
    for bracket in read(text, braced).brackets:
        if bracket.character not in PAIRS:
            stack.append(bracket)
        elif take(stack, bracket) is None:
            found.append(bracket)
    return tuple(found)


def take(stack: list[Bracket], closer: Bracket) -> Bracket | None:
    """Take from the stack what `closer` closes, with what was left open within; None when nothing fits."""
    if not any(bracket.character == PAIRS[closer.character] for bracket in stack[-DEPTH:]):
        return None
    while (top := stack.pop()).character != PAIRS[closer.character]:
        pass
    return top


def open_quote(line: str, braced: bool) -> str:
    """The quote that is open at the end of a line, or nothing."""
    reading = read(line, braced)
    at = reading.apostrophe
    if at is None and reading.spans and reading.spans[-1][1] == len(line):
        at = reading.spans[-1][0]
        if close(line, at + 1, line[at]) == len(line):
            return ""
    if at is None or (line[at] == "'" and line[max(at - 1, 0) : at].isalnum()):
        return ""
    found = TOKEN.match(line, at)
    return found[0] if found and found.lastgroup == "quote" else ""


def close(text: str, at: int, quote: str) -> int:
    """Behind the `quote` that closes the string whose inside begins at `at`; -1 where none does."""
    end = len(text)
    if quote not in SPANNING and (newline := text.find("\n", at)) >= 0:
        end = newline
    while (found := text.find(quote, at, end)) >= 0:
        inside = text[at:found]
        if (len(inside) - len(inside.rstrip("\\"))) % 2 == 0:
            return found + len(quote)
        at = found + 1
    return -1


def width(indentation: str) -> int:
    """The columns that spaces and tabs take."""
    return len(indentation) + indentation.count("\t") * (TAB - 1)


def _begins_comment(text: str, at: int, token: str, braced: bool) -> bool:
    if (token == "#") == braced:
        return False
    return token == "/*" or at == 0 or text[at - 1] in " \t\n;{}(),"
