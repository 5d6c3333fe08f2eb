"""The paged cache and its runner, as GPUs use them, with a library for the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serve.engine.engine import Engine
from serve.engine.paged_runner import PagedRunner
from serve.engine.sampling import Sampling
from tests.compile.conftest import RunnerOf
from tests.compile.families import FAMILIES, VARIANTS, random_model

pytestmark = pytest.mark.compile
# The others see no further back than a window, which shortens their context here.
ALL_THEIR_CONTEXT = [family for family in FAMILIES if "sliding_window" not in VARIANTS[family]]
IDS = [int(n) for n in np.random.default_rng(0).integers(0, 500, 150)]


@pytest.fixture(params=ALL_THEIR_CONTEXT)
def runner(request: pytest.FixtureRequest, runner_of: RunnerOf) -> Any:
    return runner_of(request.param, "q0f32", pages=True)


def differs(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("variant", ALL_THEIR_CONTEXT)
def test_logits_equal_transformers(variant: str, runner_of: RunnerOf) -> None:
    import torch

    runner = runner_of(variant, "q0f32", pages=True)
    assert isinstance(runner, PagedRunner)
    with torch.no_grad():
        wanted = random_model(variant)(torch.tensor([IDS])).logits[0].numpy()
    assert differs(runner.score(IDS, 0), wanted) < 1e-4


def test_decoding_rolling_back_and_chunks_equal_a_fresh_run(runner: Any) -> None:
    whole = runner.score(IDS, 0)
    runner.forward(IDS[:140], 0)
    for at in range(140, 145):
        assert differs(runner.forward([IDS[at]], at), whole[at]) < 1e-4
    runner.forward([1, 2, 3, 4, 5], 30)
    assert differs(runner.score(IDS[30:60], 30), whole[30:60]) < 1e-4
    with pytest.raises(ValueError, match="were to be kept"):
        runner.forward([1], 100)


def test_the_engine_generates_what_the_explicit_cache_gives(runner_of: RunnerOf) -> None:
    greedy, ends = Sampling(), frozenset[int]()
    made = [
        list(Engine(runner_of("gpt_bigcode", "q0f32", pages=pages)).generate(IDS[:40], greedy, 20, ends))
        for pages in (False, True)
    ]
    assert made[0] == made[1]


def test_a_context_is_no_longer_than_the_window(runner_of: RunnerOf) -> None:
    import torch

    runner = runner_of("starcoder2", "q0f32", pages=True)
    assert runner.context_size == 50
    with torch.no_grad():
        wanted = random_model("starcoder2")(torch.tensor([IDS[:50]])).logits[0].numpy()
    assert differs(runner.score(IDS[:50], 0), wanted) < 1e-4
