"""That no kernel of a GPU's library is left to the processor."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compile.gpu.emulator import TARGETS, Launch, lower

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def loose() -> dict[str, Any]:
    """Kernels without threads: one with a block to schedule, as all of TVM's have, and one without."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True, private=True)
    def scheduled(x: T.handle, out: T.handle):
        n = T.int64()
        given = T.match_buffer(x, (n,), "float32")
        result = T.match_buffer(out, (n,), "float32")
        for i in T.serial(n):
            with T.sblock("twice"):
                at = T.axis.spatial(n, i)
                result[at] = given[at] + given[at]

    @T.prim_func(s_tir=True, private=True)
    def stubborn(x: T.handle, out: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        given = T.match_buffer(x, (4,), "float32")
        result = T.match_buffer(out, (4,), "float32")
        for i in T.serial(4):
            result[i] = given[i]

    return {"scheduled": scheduled, "stubborn": stubborn}


@pytest.mark.parametrize("kind", list(TARGETS))
def test_kernels_without_threads_get_some(kind: str, loose: dict[str, Any]) -> None:
    import tvm
    import tvm_ffi

    from compile.kernels.gpu.binding import bind_threads, is_loose
    from compile.kernels.gpu.limits import Limits
    from compile.kernels.gpu.rows import gated

    device, ours = tvm.target.Target(TARGETS[kind]), gated(64, Limits(), "float16")
    module = bind_threads(tvm.IRModule({"scheduled": loose["scheduled"], "ours": ours}), device)
    assert tvm_ffi.structural_equal(module["ours"], ours)
    assert not is_loose(module["scheduled"])
    (function,) = lower({"scheduled": module["scheduled"]}, kind).functions.values()
    assert Launch(function).threads == (1024 if kind == "cuda" else 256)


def test_kernels_that_stay_without_are_named(loose: dict[str, Any]) -> None:
    import tvm

    from compile.kernels.gpu.binding import bind_threads
    from toolchain.contracts.errors import StageError

    with pytest.raises(StageError, match="bound to stubborn"):
        bind_threads(tvm.IRModule({"stubborn": loose["stubborn"]}), tvm.target.Target(TARGETS["cuda"]))
