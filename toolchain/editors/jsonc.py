"""JSON with comments and trailing commas, as VS Code and Zed read it: parsed with positions, and edited in place.

An edit replaces the text of one value, or adds an entry behind an object's last; all other text stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from toolchain.editors.broken import Broken

BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
DEEPEST = 100


@dataclass(frozen=True)
class Node:
    """A value and where its text begins and ends; `entries` are an object's, in their order."""

    start: int
    end: int
    value: Any
    entries: tuple[Entry, ...] | None = None
    ends_in_comma: bool = False

    def entry(self, key: str) -> Entry | None:
        """The entry that counts: of two with one key the last."""
        return next((entry for entry in reversed(self.entries or ()) if entry.key == key), None)


@dataclass(frozen=True)
class Entry:
    key: str
    start: int
    node: Node


def parse(text: str) -> Node | None:
    """The value in `text`; None where there are only blanks and comments. Raises Broken."""
    reader = _Reader(text)
    if reader.skip() == len(text):
        return None
    node = reader.value(0)
    if reader.skip() != len(text):
        reader.fail("there is text after the end")
    return node


def assign(text: str, path: Sequence[str], value: Any) -> str:
    """`text` with `value` at the path of keys. Raises Broken where it is no JSON, or no object on the way."""
    node = parse(text)
    if node is None:
        head = text if not text or text.endswith("\n") else text + _line_break(text)
        return assign(f"{head}{{}}{_line_break(text)}", path, value)
    for depth, key in enumerate(path):
        if node.entries is None:
            fail(text, node.start, f"'{path[depth - 1]}' is no object" if depth else "an object is needed")
        entry = node.entry(key)
        rest = path[depth + 1 :]
        if entry is None:
            return _add(text, node, key, _wrap(value, rest))
        if entry.node.value is None:  # as good as absent
            return text if value is None and not rest else _replace(text, entry, _wrap(value, rest))
        if not rest:
            return text if _same(entry.node.value, value) else _replace(text, entry, value)
        node = entry.node
    raise AssertionError("a path has at least one key")


def fail(text: str, at: int, problem: str) -> NoReturn:
    raise Broken(problem, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


@dataclass
class _Reader:
    text: str
    at: int = 0
    comma: bool = False

    def fail(self, problem: str) -> NoReturn:
        fail(self.text, self.at, problem)

    def skip(self) -> int:
        """Pass blanks and comments over."""
        found = BLANK.match(self.text, self.at)
        assert found
        self.at = found.end()
        return self.at

    def next_is(self, sign: str) -> bool:
        self.skip()
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) * found
        return found

    def value(self, depth: int) -> Node:
        if depth > DEEPEST:
            self.fail("it is nested too deeply")
        start = self.skip()
        if self.next_is("{"):
            return self._object(start, depth)
        if self.next_is("["):
            items = [self.value(depth + 1).value for _ in self._items("]")]
            return Node(start, self.at, items)
        return Node(start, *self._token(STRING, SCALAR))

    def _object(self, start: int, depth: int) -> Node:
        entries: list[Entry] = []
        for key_start in self._items("}"):
            _, key = self._token(STRING)
            if not self.next_is(":"):
                self.fail("a colon is missing")
            entries.append(Entry(key, key_start, self.value(depth + 1)))
        value = {entry.key: entry.node.value for entry in entries}
        return Node(start, self.at, value, tuple(entries), bool(entries) and self.comma)

    def _items(self, close: str) -> Iterator[int]:
        """Where each item begins, up to the sign that closes; after that `comma` says whether a comma was the last."""
        comma = True
        while not self.next_is(close):
            if not comma:
                self.fail(f"a comma or {close} is missing")
            yield self.at
            comma = self.next_is(",")
        self.comma = comma

    def _token(self, *kinds: re.Pattern[str]) -> tuple[int, Any]:
        """Where the token ends, and its value."""
        found = next(filter(None, (kind.match(self.text, self.at) for kind in kinds)), None)
        if found is None or (found[0][-1].isalnum() and self.text[found.end() : found.end() + 1].isalnum()):
            seen = self.text[self.at : self.at + 1]
            needed = "a value" if len(kinds) > 1 else "a key in quotes"
            self.fail(f"{needed} is needed, not {seen!r}" if seen else "it ends too early")
        self.at = found.end()
        return self.at, json.loads(found[0])


def _replace(text: str, entry: Entry, value: Any) -> str:
    indent = _indent(text, entry.start)
    return text[: entry.node.start] + _dump(text, value, indent) + text[entry.node.end :]


def _add(text: str, node: Node, key: str, value: Any) -> str:
    """An entry behind the last one of an object, on a line of its own."""
    entries = node.entries or ()
    outer = _indent(text, node.start)
    first_on_line = bool(entries) and not text[: entries[0].start].rpartition("\n")[2].strip()
    indent = _indent(text, entries[0].start) if first_on_line and "\n" in text else outer + _unit(text)
    close = node.end - 1
    at = len(text[:close].rstrip(" \t\r\n"))
    line_break = _line_break(text)
    added = f"{line_break}{indent}{json.dumps(key, ensure_ascii=False)}: {_dump(text, value, indent)}"
    if node.ends_in_comma:
        added += ","
    if "\n" not in text[at:close]:
        added += line_break + outer
    text = text[:at] + added + text[at:]
    if entries and not node.ends_in_comma:
        text = f"{text[: entries[-1].node.end]},{text[entries[-1].node.end :]}"
    return text


def _dump(text: str, value: Any, indent: str) -> str:
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return (_line_break(text) + indent).join(lines)


def _indent(text: str, at: int) -> str:
    """The blanks that the line of a position begins with."""
    line = text[:at].rpartition("\n")[2]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str) -> str:
    """What the file indents by: as its first indented line does."""
    found = re.search(r'\n(\t|[ ]+)["\[{]', text)
    return found[1] if found else "    "


def _line_break(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _wrap(value: Any, keys: Sequence[str]) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _same(one: Any, other: Any) -> bool:
    """Equal, where 1 is neither true nor 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
