"""TVM's paged attention: that it is right, but for a race where it merges, and that our repair ends that race."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.compile.gpu import reference
from tests.compile.gpu.emulator import TARGETS, Emulator, lower, source_of

pytestmark = pytest.mark.compile

HEADS, HEAD_SIZE = 4, 64
NAME = "tir_attention_merge_state"
BARRIERS = {"cuda": "__syncthreads();", "metal": "threadgroup_barrier("}


def merge(kind: str, name: str = NAME) -> Any:
    import tvm
    from tvm.relax.frontend.nn.llm.kv_cache import _merge_state_inplace

    target = tvm.target.Target(TARGETS[kind])
    return _merge_state_inplace(HEADS, HEAD_SIZE, "float16", target, name)


def repaired(kind: str) -> dict[str, Any]:
    """Two kernels that merge, and one that does not, after the repair."""
    import tvm

    from compile.kernels.gpu.limits import Limits
    from compile.kernels.gpu.paged_attention import merge_in_order
    from compile.kernels.gpu.rows import gated

    other = gated(64, Limits(), "float16").with_attr("global_symbol", "other")
    module = tvm.IRModule({NAME: merge(kind), f"{NAME}_mla": merge(kind, f"{NAME}_mla"), "other": other})
    return {variable.name_hint: function for variable, function in merge_in_order(module).functions.items()}


def states() -> list[np.ndarray]:
    """Two partial results for 5 tokens: values and the base-2 logarithms of their weights."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(2):
        made.append(draw.standard_normal((5, HEADS, HEAD_SIZE)).astype(np.float16))
        made.append(draw.standard_normal((5, HEADS)).astype(np.float32))
    return made


@pytest.mark.parametrize("kind", ["cuda", "metal"])
def test_one_barrier_before_the_store(kind: str) -> None:
    language = "metal" if kind == "metal" else "cuda"
    assert BARRIERS[language] not in source_of(lower({"merge": merge(kind)}, kind), language)
    functions = repaired(kind)
    for name in (NAME, f"{NAME}_mla"):
        lines = [line.strip() for line in source_of(lower({"merge": functions[name]}, kind), language).splitlines()]
        at = [number for number, line in enumerate(lines) if line.startswith(BARRIERS[language])]
        stores = [number for number, line in enumerate(lines) if line.startswith("S_ptr[")]
        reads = [number for number, line in enumerate(lines) if "= S_ptr[" in line]
        assert len(at) == len(stores) == 1
        assert max(reads) < at[0] < stores[0]
    assert BARRIERS[language] not in source_of(lower({"other": functions["other"]}, kind), language)


@pytest.mark.parametrize("kind", list(TARGETS))
def test_merging_is_right_only_when_repaired(kind: str, emulate: Callable[..., Emulator]) -> None:
    target = emulate({"racing": merge(kind), "repaired": repaired(kind)[NAME]}, kind)
    with pytest.raises(AssertionError, match="depends on the order of its threads"):
        target("racing", *states())
    values, scores, other_values, other_scores = states()
    shares, other_shares = np.exp2(scores.astype(np.float64)), np.exp2(other_scores.astype(np.float64))
    share = (shares / (shares + other_shares))[..., None]
    wanted = values * share + other_values * (1 - share)
    target("repaired", values, scores, other_values, other_scores)
    np.testing.assert_allclose(values, wanted, rtol=2.0**-10, atol=2.0**-20)
    np.testing.assert_allclose(scores, np.log2(shares + other_shares), rtol=1e-6, atol=1e-6)


def test_refuses_what_it_does_not_know() -> None:
    import tvm

    from compile.kernels.gpu.limits import Limits
    from compile.kernels.gpu.paged_attention import merge_in_order
    from compile.kernels.gpu.rows import gated
    from toolchain.contracts.errors import StageError

    stranger = gated(64, Limits(), "float16")
    with pytest.raises(StageError, match="no kernel"):
        merge_in_order(tvm.IRModule({"gated": stranger}))
    with pytest.raises(StageError, match="0 times"):
        merge_in_order(tvm.IRModule({NAME: stranger}))


QUERY_HEADS, KV_HEADS, PAGE = 6, 2, 16
# Tokens that three sequences have in the cache, and how many of each are queries of a prefill.
CACHED, QUERIES = (5, 37, 64), (3, 33, 64)
SCALE = float(HEAD_SIZE**-0.5)


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """softmax(q · kᵀ) · v and the base-2 logarithm of the softmax's sum, for one sequence."""
    wide = [np.repeat(array, QUERY_HEADS // KV_HEADS, 1).astype(np.float64) for array in (keys, values)]
    scores = np.einsum("nhd,mhd->nhm", queries.astype(np.float64), wide[0]) * SCALE
    if causal:
        later = np.arange(len(keys)) > np.arange(len(queries))[:, None]
        scores = np.where(later[:, None], -np.inf, scores)
    weights = np.exp(scores)
    sums = weights.sum(-1, keepdims=True)
    return np.einsum("nhm,mhd->nhd", weights / sums, wide[1]), np.log2(sums[..., 0])


@pytest.mark.parametrize("kind", list(TARGETS))
def test_attention_equals_numpy(kind: str, emulate: Callable[..., Emulator]) -> None:
    import tvm
    from tvm.relax.frontend.nn.llm import kv_cache

    device, heads = tvm.target.Target(TARGETS[kind]), (KV_HEADS, QUERY_HEADS)
    kernels = {
        "decode": kv_cache._attention_decode(*heads, HEAD_SIZE, "float16", False, {}, device),
        "prefill": kv_cache._attention_prefill(*heads, HEAD_SIZE, "float16", False, {}, device),
        "ragged": kv_cache._attention_prefill_ragged(*heads, HEAD_SIZE, HEAD_SIZE, "float16", {}, device),
    }
    target, draw = emulate(kernels, kind), np.random.default_rng(0)
    pages = draw.standard_normal((20, 2, KV_HEADS, PAGE, HEAD_SIZE)).astype(np.float16)
    ends = np.array([0, *np.cumsum([-(-tokens // PAGE) for tokens in CACHED])], np.int32)
    used = draw.permutation(20)[: ends[-1]].astype(np.int32)
    last = np.array([(tokens - 1) % PAGE + 1 for tokens in CACHED], np.int32)
    rope = (0, 1.0, 10000.0, SCALE)

    def cached(sequence: int) -> list[np.ndarray]:
        own = pages[used[ends[sequence] : ends[sequence + 1]]]
        return [own[:, part].swapaxes(1, 2).reshape(-1, KV_HEADS, HEAD_SIZE)[: CACHED[sequence]] for part in (0, 1)]

    def blanks(count: int) -> list[np.ndarray]:
        shape = (count, QUERY_HEADS)
        return [reference.blank((*shape, HEAD_SIZE), "float16"), reference.blank(shape, "float32")]

    def check(found: list[np.ndarray], wanted: list[tuple[np.ndarray, np.ndarray]]) -> None:
        # The kernels round the softmax to float16 before they multiply with the values.
        for array, parts, allowed in zip(found, zip(*wanted, strict=True), (2.0**-9, 2.0**-18), strict=True):
            np.testing.assert_allclose(array, np.concatenate(parts), rtol=allowed, atol=allowed)

    queries, out = draw.standard_normal((3, QUERY_HEADS, HEAD_SIZE)).astype(np.float16), blanks(3)
    places = np.zeros(3, np.int32)
    target("decode", queries, pages, ends, used, last, places, places, *out, *rope)
    check(out, [attend(queries[n : n + 1], *cached(n), causal=False) for n in range(3)])

    starts = np.array([0, *np.cumsum(QUERIES)], np.int32)
    spans = list(pairwise(starts))
    queries = draw.standard_normal((starts[-1], QUERY_HEADS, HEAD_SIZE)).astype(np.float16)
    positions, out = np.zeros(starts[-1], np.int32), blanks(starts[-1])
    target("prefill", queries, starts, pages, ends, used, last, places, positions, *out, 0, *rope)
    check(out, [attend(queries[a:b], *cached(n), causal=False) for n, (a, b) in enumerate(spans)])

    keys, values = (draw.standard_normal((starts[-1], KV_HEADS, HEAD_SIZE)).astype(np.float16) for _ in range(2))
    out = blanks(starts[-1])
    target("ragged", queries, starts, keys, values, starts, positions, places, *out, 1, *rope)
    check(out, [attend(queries[a:b], keys[a:b], values[a:b], causal=True) for a, b in spans])
