"""Odd numbers and texts get a sensible value or an error that names the field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.sampling import Sampling
from serve.requests import (
    LONGEST_STOP,
    MOST_STOPS,
    MOST_TOKENS,
    BadRequest,
    clean,
    over,
    read_max_tokens,
    read_sampling,
    read_stop,
    read_text,
)

HUGE = 10**400


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(None, 64), (-1, 64), (1, 1), (60, 60), (60.0, 60), (10**9, MOST_TOKENS), (1e9, MOST_TOKENS), (HUGE, MOST_TOKENS)],
)
def test_a_count_of_tokens(value: Any, tokens: int) -> None:
    assert read_max_tokens({"max_tokens": value}, "max_tokens", 64) == tokens


@pytest.mark.parametrize("value", [0, -2, 0.5, 1.5, math.nan, math.inf, -math.inf, -HUGE, True, "10", [1]])
def test_what_is_no_count_of_tokens(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"^max_tokens: a whole number") as caught:
        read_max_tokens({"max_tokens": value}, "max_tokens", 64)
    assert caught.value.field == "max_tokens"


@pytest.mark.parametrize(
    ("values", "sampling"),
    [
        ({}, Sampling(0.2, 0.95)),
        ({"temperature": None, "top_p": None, "top_k": None, "seed": None}, Sampling(0.2, 0.95)),
        ({"temperature": 0}, Sampling(0, 0.95)),
        ({"do_sample": False, "temperature": 0.7}, Sampling(0, 0.95)),
        ({"do_sample": True, "temperature": 0.7}, Sampling(0.7, 0.95)),
        ({"top_k": -1, "seed": -1}, Sampling(0.2, 0.95)),
        ({"top_k": 50, "seed": 2**63}, Sampling(0.2, 0.95, 50, 2**63)),
    ],
)
def test_sampling(values: dict[str, Any], sampling: Sampling) -> None:
    assert read_sampling(values, Sampling(0.2, 0.95)) == sampling


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "seed", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -2, HUGE, -HUGE, True, "1", [], {}])
def test_what_is_no_sampling(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=f"^{name}: "):
        read_sampling({name: value}, Sampling(0.2, 0.95))


@pytest.mark.parametrize(
    ("value", "stops"), [(None, ()), ("", ()), ("a", ("a",)), (["a", "", "b"], ("a", "b")), ([], ())]
)
def test_stop_strings(value: Any, stops: tuple[str, ...]) -> None:
    assert read_stop({"stop": value}, "stop") == stops


@pytest.mark.parametrize("value", [7, [7], ["a"] * (MOST_STOPS + 1), ["a" * (LONGEST_STOP + 1)], {"a": 1}])
def test_what_are_no_stop_strings(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"^stop: "):
        read_stop({"stop": value}, "stop")


@given(st.text(st.characters(categories=None)))
def test_text_is_clean_of_surrogates_and_otherwise_the_same(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


@pytest.mark.parametrize(
    ("text", "cleaned"), [("a\ud800b", "a\ufffdb"), ("a\udc00", "a\ufffd"), ("\ud83d\ude00", "😀")]
)
def test_lone_surrogates_are_replaced_and_halves_joined(text: str, cleaned: str) -> None:
    assert read_text({"inputs": text}, "inputs") == cleaned


@pytest.mark.parametrize("value", [None, 7, ["a"], {}])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"^inputs: a string is needed"):
        read_text({"inputs": value}, "inputs")


def test_a_null_gives_way_to_what_lies_below() -> None:
    assert over({"a": 1, "b": None}, {"a": 2, "b": 3, "c": 4}) == {"a": 1, "b": 3, "c": 4}
    assert over({"a": 1, "b": None}, ["no object"]) == {"a": 1}
