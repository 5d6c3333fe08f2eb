"""The repair of TVM's paged attention: that there is a race, that a barrier ends it, and where the barrier stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

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
