"""Sampling against a plain restatement of it, and the numbers that break naive ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serve.engine.sampling import Sampling, choose
from toolchain.contracts.errors import SettingsError, StageError

logits_strategy = arrays(np.float32, 12, elements=st.floats(-30, 30, width=32))


def allowed(logits: np.ndarray, sampling: Sampling) -> set[int]:
    """The tokens that may be drawn, by the definition."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: sampling.top_k or None]
    share = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / sampling.temperature)
    share /= share.sum()
    kept, held = set(), 0.0
    for token, part in zip(order, share, strict=True):
        kept.add(token)
        held += part
        if held >= sampling.top_p:
            break
    # Ties may be broken either way.
    return kept | set(np.flatnonzero(np.isclose(logits, min(logits[list(kept)]), atol=1e-5)))


@given(logits_strategy, st.floats(0.05, 5), st.floats(0.01, 0.99), st.integers(0, 12), st.integers(0, 99))
def test_only_likely_tokens_are_drawn(
    logits: np.ndarray, temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    sampling = Sampling(temperature, top_p, top_k, seed)
    draws = [choose(logits, sampling, np.random.default_rng(seed)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0] in allowed(logits, Sampling(temperature, min(top_p + 1e-9, 1), top_k))


def test_shares_follow_the_temperature() -> None:
    logits, draw = np.log(np.array([0.7, 0.2, 0.1], np.float32)), np.random.default_rng(0)
    counts = np.bincount([choose(logits, Sampling(1.0), draw) for _ in range(4000)], minlength=3) / 4000
    assert np.allclose(counts, [0.7, 0.2, 0.1], atol=0.03)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1e-300), Sampling(5e-324), Sampling(1.0, 0.0), Sampling(1.0, top_k=1)]
)
def test_the_best_token_is_taken_where_only_it_may_be(sampling: Sampling) -> None:
    logits = np.array([1, 5, 4.5, -1e30], np.float32)
    assert choose(logits, sampling, np.random.default_rng(0)) == 1


def test_a_high_temperature_and_large_logits_stay_numbers() -> None:
    logits = np.array([3e38, -3e38, 0], np.float32)
    assert choose(logits, Sampling(100.0), np.random.default_rng(0)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_logits_that_are_no_numbers_are_an_error(bad: float, temperature: float) -> None:
    logits = np.array([1, bad, 2], np.float32)
    with pytest.raises(StageError, match="not numbers"):
        choose(logits, Sampling(temperature), np.random.default_rng(0))


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 1.5}, {"top_p": float("nan")}, {"top_k": -2}],
)
def test_sampling_checks_itself(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        Sampling(**values)


def test_a_repetition_penalty_makes_what_occurred_less_likely() -> None:
    logits, draw = np.array([2.0, 1.5, -1.0], np.float32), np.random.default_rng(0)
    assert choose(logits, Sampling(repetition_penalty=2.0), draw, {0}) == 1
    assert choose(logits, Sampling(repetition_penalty=2.0), draw, {2}) == 0
    assert choose(logits, Sampling(repetition_penalty=1.0), draw, {0}) == 0
    assert logits[0] == 2.0
