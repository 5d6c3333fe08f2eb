"""The engine: what is cached is what would be computed, and stopping is noticed at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.cache import CachedIds
from serve.engine.engine import Engine, Statistics
from serve.engine.sampling import Sampling
from tests.serve.scripted import ScriptedRunner, any_tokens, repeats, says

VOCABULARY, CONTEXT, END = 40, 96, 39
GREEDY = Sampling()
prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=60)


def generate(engine: Engine, prompt: list[int], sampling: Sampling = GREEDY, most: int = 8) -> list[int]:
    return list(engine.generate(prompt, sampling, most, frozenset({END})))


@settings(max_examples=60, deadline=None)
@given(st.lists(prompts, min_size=1, max_size=6), st.integers(1, 50), st.sampled_from([0.0, 0.8]))
def test_a_cached_prompt_gives_the_tokens_of_an_uncached_one(
    asked: list[list[int]], chunk: int, temperature: float
) -> None:
    engine = Engine(ScriptedRunner(VOCABULARY, any_tokens, CONTEXT), chunk)
    for number, prompt in enumerate(asked):
        sampling = Sampling(temperature, 0.9, seed=number)
        fresh = Engine(ScriptedRunner(VOCABULARY, any_tokens, CONTEXT), 128)
        assert generate(engine, prompt, sampling) == generate(fresh, prompt, sampling)


def test_a_keystroke_computes_only_what_it_adds() -> None:
    runner = ScriptedRunner(VOCABULARY, says([1, 2, 3], END), CONTEXT)
    engine = Engine(runner, 16)
    prompt = list(range(10, 30))
    generate(engine, prompt)
    runner.calls.clear()
    statistics = Statistics()
    assert list(engine.generate([*prompt, 1, 2, 5], GREEDY, 8, frozenset({END}), statistics=statistics)) == [1, 2, 3]
    # 1 and 2 had been generated before, so their places in the cache hold good.
    assert (statistics.reused, statistics.prefilled, statistics.generated) == (22, 1, 4)
    assert runner.calls[0] == ((5,), 22)


def test_the_same_prompt_again_computes_one_token() -> None:
    runner = ScriptedRunner(VOCABULARY, any_tokens, CONTEXT)
    engine = Engine(runner, 16)
    first = generate(engine, [4, 5, 6, 7])
    runner.calls.clear()
    assert generate(engine, [4, 5, 6, 7]) == first
    assert runner.calls[0] == ((7,), 3)


def test_generation_ends_at_the_context() -> None:
    engine = Engine(ScriptedRunner(VOCABULARY, repeats(3), CONTEXT), 16)
    assert len(generate(engine, [1] * (CONTEXT - 5), most=50)) == 5


@pytest.mark.parametrize("size", [0, CONTEXT, CONTEXT + 1])
def test_a_prompt_that_does_not_fit_is_an_error(size: int) -> None:
    engine = Engine(ScriptedRunner(VOCABULARY, repeats(3), CONTEXT), 16)
    with pytest.raises(ValueError, match="does not fit"):
        generate(engine, [1] * size)


def test_cancelling_is_noticed_between_chunks_and_what_was_computed_stays() -> None:
    runner = ScriptedRunner(VOCABULARY, any_tokens, CONTEXT)
    engine = Engine(runner, 10)
    answers: Iterator[bool] = iter([False, False, True])
    statistics = Statistics()
    assert not list(engine.generate([2] * 50, GREEDY, 8, frozenset(), lambda: next(answers), statistics))
    assert len(runner.calls) == 2
    again = Statistics()
    list(engine.generate([2] * 50, GREEDY, 1, frozenset(), statistics=again))
    assert (again.reused, again.prefilled) == (20, 30)


def test_cancelling_is_noticed_between_tokens() -> None:
    runner = ScriptedRunner(VOCABULARY, repeats(3), CONTEXT)
    got: list[int] = []
    for token in Engine(runner, 10).generate([1, 2], GREEDY, 50, frozenset(), lambda: len(got) == 4):
        got.append(token)
    assert got == [3] * 4


def test_a_reader_that_stops_frees_the_engine() -> None:
    engine = Engine(ScriptedRunner(VOCABULARY, repeats(3), CONTEXT), 10)
    tokens = engine.generate([1, 2], GREEDY, 50, frozenset())
    next(tokens)
    tokens.close()
    assert generate(engine, [1, 2], most=2) == [3, 3]


def test_a_failing_runner_leaves_nothing_cached_that_it_may_have_overwritten() -> None:
    runner = ScriptedRunner(VOCABULARY, any_tokens, CONTEXT)
    engine = Engine(runner, 10)
    first = generate(engine, [1, 2, 3, 4])

    def fails(held: object, vocab_size: int) -> np.ndarray:
        raise RuntimeError("out of memory")

    runner.answer = fails
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(engine, [1, 2, 9, 9])
    runner.answer = any_tokens
    statistics = Statistics()
    assert list(engine.generate([1, 2, 3, 4], GREEDY, 8, frozenset({END}), statistics=statistics)) == first
    assert statistics.reused == 2


def test_a_chunk_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="computes nothing"):
        Engine(ScriptedRunner(VOCABULARY, any_tokens), 0)


@given(prompts, prompts)
def test_what_is_reused_is_a_common_beginning_and_leaves_a_token(held: list[int], prompt: list[int]) -> None:
    cache = CachedIds()
    cache.write(held, 0)
    reused = cache.reusable(prompt)
    assert reused < len(prompt)
    assert held[:reused] == prompt[:reused]
    assert reused == len(prompt) - 1 or held[reused : reused + 1] != prompt[reused : reused + 1]
