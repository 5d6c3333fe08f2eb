"""Editing JSON with comments: what is asked for is there afterwards, and everything else as it was."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.editors.broken import Broken
from toolchain.editors.jsonc import assign, parse

KEYS = st.sampled_from(["a", "b", "editor.fontSize", 'with "quotes"', "a\\b", "ключ", "", "//", "/* x */"])
TEXTS = st.text(st.sampled_from('ab"\\/{}[],: \n\té\u2028\u20ac\U0001f600'), max_size=6)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
BLANKS = st.sampled_from(
    ["", " ", "\n", "\t", "\r\n", "\n  ", "// c, }\n", "/* } , */", "/**/ ", "\n// x: 1\r\n\t", "/* a\n b */"]
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, Any]:
    """A text and the value in it, with comments, blanks and trailing commas wherever they may stand."""
    value = draw(st.dictionaries(KEYS, VALUES, max_size=4))

    def blank() -> str:
        return draw(BLANKS)

    def render(value: Any) -> str:
        if isinstance(value, dict):
            parts = [f"{blank()}{json.dumps(k)}{blank()}:{blank()}{render(v)}{blank()}" for k, v in value.items()]
            opening, closing = "{}"
        elif isinstance(value, list):
            parts = [f"{blank()}{render(v)}{blank()}" for v in value]
            opening, closing = "[]"
        else:
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        comma = f",{blank()}" if parts and draw(st.booleans()) else ""
        return f"{opening}{','.join(parts)}{comma}{blank()}{closing}"

    return f"{blank()}{render(value)}{blank()}", value


def placed(value: Any, path: tuple[str, ...], wanted: Any) -> Any:
    """What an edit is to give; None where there is no object on the way."""
    if not path:
        return wanted
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise LookupError
    return {**value, path[0]: placed(value.get(path[0]), path[1:], wanted)}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_a_text_is_read_as_what_it_says(document: tuple[str, Any]) -> None:
    text, value = document
    node = parse(text)
    assert node is not None
    assert json.dumps(node.value) == json.dumps(value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.lists(KEYS, min_size=1, max_size=3).map(tuple), VALUES)
def test_an_edit_gives_what_was_asked_for_and_a_second_one_nothing(
    document: tuple[str, Any], path: tuple[str, ...], wanted: Any
) -> None:
    text, value = document
    try:
        expected = placed(value, path, wanted)
    except LookupError:
        with pytest.raises(Broken):
            assign(text, path, wanted)
        return
    after = assign(text, path, wanted)
    node = parse(after)
    assert node is not None
    assert json.dumps(node.value) == json.dumps(expected)
    assert assign(after, path, wanted) == after


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), VALUES)
def test_an_added_entry_leaves_every_character_where_it_was(document: tuple[str, Any], wanted: Any) -> None:
    text, _ = document
    after = assign(text, ("new",), wanted)
    kept = iter(after)
    assert all(character in kept for character in text)
    node = parse(after)
    assert node is not None
    entry = node.entry("new")
    assert entry is not None
    added = Counter(after) - Counter(text) - Counter(after[entry.start : entry.node.end])
    assert not added.keys() - set(", \t\r\n")
    assert added[","] <= 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.data())
def test_a_changed_value_leaves_the_text_around_it(document: tuple[str, Any], data: st.DataObject) -> None:
    text, value = document
    if not value:
        return
    key = data.draw(st.sampled_from(sorted(value)))
    node = parse(text)
    assert node is not None
    entry = node.entry(key)
    assert entry is not None
    after = assign(text, (key,), "changed")
    assert after == f'{text[: entry.node.start]}"changed"{text[entry.node.end :]}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n    "k": 1\n}\n'),
        ("// mine\n", '// mine\n{\n    "k": 1\n}\n'),
        ("{}", '{\n    "k": 1\n}'),
        ("{ }\n", '{\n    "k": 1\n }\n'),
        ("{\n  // none yet\n}\n", '{\n  // none yet\n    "k": 1\n}\n'),
        ('{"a": 1}', '{"a": 1,\n    "k": 1\n}'),
        ('{\n\t"a": 1 // one\n}\n', '{\n\t"a": 1, // one\n\t"k": 1\n}\n'),
        ('{\n  "a": 1, // one\n}\n', '{\n  "a": 1, // one\n  "k": 1,\n}\n'),
        ('{\r\n  "a": 1\r\n}\r\n', '{\r\n  "a": 1,\r\n  "k": 1\r\n}\r\n'),
        ('{\n  "a": {} /* , */\n  // "b": 2\n}', '{\n  "a": {}, /* , */\n  // "b": 2\n  "k": 1\n}'),
        ('{"k": 2, "k": 3 /* counts */}', '{"k": 2, "k": 1 /* counts */}'),
        ('{"k": 1.0}', '{"k": 1}'),
        ('{"k": true}', '{"k": 1}'),
    ],
)
def test_where_an_entry_goes(before: str, after: str) -> None:
    assert assign(before, ("k",), 1) == after


def test_deeper_entries_are_indented_as_the_file_is() -> None:
    before = '{\n  "zed": {\n    "x": 1\n  }\n}\n'
    after = assign(before, ("zed", "api", "url"), "u")
    assert after == '{\n  "zed": {\n    "x": 1,\n    "api": {\n      "url": "u"\n    }\n  }\n}\n'
    assert assign('{"zed": null}', ("zed", "url"), "u") == '{"zed": {\n    "url": "u"\n}}'


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', 3, 3),
        ('{"a": }', 1, 7),
        ('{"a": 1', 1, 8),
        ("{\n  a: 1}", 2, 3),
        ('{"a": 1}\n{', 2, 1),
        ('{"a": tru}', 1, 7),
        ('{"a": 01}', 1, 7),
        ('{"a": "x\ny"}', 1, 7),
        ("{,}", 1, 2),
        ('{"a": 1,,}', 1, 9),
        ("{ /* never ends", 1, 3),
        ("[1]", 1, 1),
        ('{"a": [1 2]}', 1, 10),
        ("{\"a\": 'x'}", 1, 7),
        ("[" * 5000, 1, 102),
    ],
)
def test_what_is_broken_is_told_with_line_and_column(text: str, line: int, column: int) -> None:
    with pytest.raises(Broken) as refusal:
        assign(text, ("k",), 1)
    assert (refusal.value.line, refusal.value.column) == (line, column)
