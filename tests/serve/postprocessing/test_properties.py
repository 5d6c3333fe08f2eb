"""What holds for every rule and any text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.postprocessing.cursor import Cursor
from serve.postprocessing.least_indentation import least_indentation
from serve.postprocessing.pipeline import Stream, process
from serve.postprocessing.rule import Ending, Rule
from serve.postprocessing.rules import ALL, NAMES, without

REWRITE = ("column", "tabs")
PARTS = [
    *"()[]{}\"'`;:,#/\\ \t\n",
    *("\n    ", "\n        ", "\n\t", "\n\n", "\r\n", '"""', "```", "//", "/*", "*/", " # ", "</", "else", "return x"),
    *(
        "foo",
        "foo(",
        "a",
        "b = 1",
        "x",
        "\ufffd",
        "<fim_middle>",
        "<|endoftext|>",
        "é漢🎉",
        "&'a ",
        "#if",
        "\n}",
        "\n)",
    ),
]
code = st.one_of(st.lists(st.sampled_from(PARTS), max_size=24).map("".join), st.text(max_size=60))
endings: st.SearchStrategy[Ending] = st.sampled_from(["stop", "length"])
EVERY = (*ALL, least_indentation(4))
each_rule = pytest.mark.parametrize("rule", EVERY, ids=[rule.name for rule in EVERY])


@each_rule
@settings(max_examples=300, deadline=None)
@given(prefix=code, suffix=code, text=code, ending=endings)
def test_a_rule_keeps_a_beginning_and_is_done_after_once(
    rule: Rule, prefix: str, suffix: str, text: str, ending: Ending
) -> None:
    kept = process((rule,), prefix, suffix, text, ending)
    if rule.name in REWRITE:
        assert "".join(kept.split()) == "".join(text.split())
    else:
        assert text.startswith(kept)
    assert process((rule,), prefix, suffix, kept) == kept


@pytest.mark.parametrize("pipeline", [*((rule,) for rule in EVERY), EVERY], ids=[*(rule.name for rule in EVERY), "all"])
@settings(max_examples=300, deadline=None)
@given(prefix=code, suffix=code, text=code, ending=endings, size=st.integers(1, 5))
def test_what_streams_is_what_comes_of_the_whole(
    pipeline: tuple[Rule, ...], prefix: str, suffix: str, text: str, ending: Ending, size: int
) -> None:
    stream = Stream(pipeline, Cursor(prefix, suffix))
    given_out = ""
    for at in range(0, len(text), size):
        given_out += stream.push(text[at : at + size])
        assert process(pipeline, prefix, suffix, text, ending).startswith(given_out)
    given_out += stream.finish(ending)
    assert given_out == process(pipeline, prefix, suffix, text, ending)


@settings(max_examples=300, deadline=None)
@given(prefix=code, suffix=code, text=code, ending=endings)
def test_all_rules_again_only_ever_cut_more(prefix: str, suffix: str, text: str, ending: Ending) -> None:
    kept = process(ALL, prefix, suffix, text, ending)
    again = process(without(REWRITE), prefix, suffix, kept)
    assert kept.startswith(again)


@each_rule
@pytest.mark.parametrize(
    "unit", ["(", ")", "'", '"', "`", "\\'", "a\n", "\n", " ", "}\n", "x", "</", "/*", '""', "\t", "b;"]
)
def test_a_rule_costs_no_more_than_the_text_is_long(rule: Rule, unit: str) -> None:
    for cursor in (Cursor("x = [\n    ", ");\n}\n"), Cursor('print("', '")\n')):
        # Of the processor, as other programs may hold it for long; what grows with the square takes minutes.
        begun = time.thread_time()
        rule.apply(cursor, unit * (200_000 // len(unit)), "stop")
        assert time.thread_time() - begun < 5


def test_a_rule_is_left_out_by_its_name() -> None:
    assert without([]) == ALL
    for name in NAMES:
        assert [rule.name for rule in without([name])] == [other for other in NAMES if other != name]
