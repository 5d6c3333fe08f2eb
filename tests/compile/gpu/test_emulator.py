"""That the emulator finds the faults it is there for, and that the kernels' limits are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compile.schemes import SCHEMES
from tests.compile.gpu import reference
from tests.compile.gpu.emulator import TARGETS, Emulator

pytestmark = pytest.mark.compile

N = 64


@pytest.fixture(scope="module")
def faulty() -> dict[str, Any]:
    """Kernels for one block of N threads, each wrong in a way of its own but the first."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True, private=True)
    def reverse(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = T.match_buffer(x, (N,), "float32")
        result = T.match_buffer(out, (N,), "float32")
        for t in T.thread_binding(N, thread="threadIdx.x"):
            shared = T.alloc_buffer((N,), "float32", scope="shared")
            shared[t] = given[t]
            T.tvm_storage_sync("shared")
            result[t] = shared[N - 1 - t]

    # TVM puts barriers where shared memory asks for them, so these two race in global memory.
    @T.prim_func(s_tir=True, private=True)
    def race(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = T.match_buffer(x, (N,), "float32")
        result = T.match_buffer(out, (N,), "float32")
        for t in T.thread_binding(N, thread="threadIdx.x"):
            result[t] = given[t]
            result[t] = result[t] + result[(t + 1) % N]

    @T.prim_func(s_tir=True, private=True)
    def outside(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = T.match_buffer(x, (N,), "float32")
        result = T.match_buffer(out, (N,), "float32")
        for t in T.thread_binding(N, thread="threadIdx.x"):
            result[t + 1] = given[t]

    @T.prim_func(s_tir=True, private=True)
    def beyond(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = T.match_buffer(x, (N,), "float32")
        result = T.match_buffer(out, (N,), "float32")
        for t in T.thread_binding(N, thread="threadIdx.x"):
            result[t] = given[t + 1]

    @T.prim_func(s_tir=True, private=True)
    def early(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = T.match_buffer(x, (N,), "float32")
        result = T.match_buffer(out, (N,), "float32")
        for t in T.thread_binding(N, thread="threadIdx.x"):
            shared = T.alloc_buffer((N,), "float32", scope="shared")
            if t > 0:
                shared[t] = given[t]
            T.tvm_storage_sync("shared")
            result[t] = shared[N - 1 - t]

    return {"reverse": reverse, "race": race, "outside": outside, "beyond": beyond, "early": early}


@pytest.fixture(scope="module", params=list(TARGETS))
def target(request: pytest.FixtureRequest, faulty: dict[str, Any], emulate: Callable[..., Emulator]) -> Emulator:
    return emulate(faulty, request.param)


def test_right_kernels_run(target: Emulator) -> None:
    x, out = np.arange(N, dtype=np.float32), reference.blank((N,), "float32")
    target("reverse", x, out)
    assert (out == x[::-1]).all()


def test_races_are_found(target: Emulator) -> None:
    with pytest.raises(AssertionError, match="depends on the order of its threads"):
        target("race", np.arange(N, dtype=np.float32), np.zeros(N, np.float32))


def test_writing_outside_is_found(target: Emulator) -> None:
    with pytest.raises(AssertionError, match="wrote outside"):
        target("outside", np.arange(N, dtype=np.float32), reference.blank((N,), "float32"))


@pytest.mark.parametrize("name", ["beyond", "early"])
def test_reading_what_is_not_there_is_found(name: str, target: Emulator) -> None:
    out = reference.blank((N,), "float32")
    target(name, np.arange(N, dtype=np.float32), out)
    assert np.isnan(out[-1])
    assert np.isfinite(out[:-1]).all()


def small_gpu_kernels(threads: int, warp: int) -> dict[str, Any]:
    from compile.kernels.gpu import float_matmul, quantized_matmul, rows
    from compile.kernels.gpu.limits import Limits

    limits, q4, q0 = Limits(threads=threads, warp=warp), SCHEMES["q4f16_1"], SCHEMES["q0f16"]
    return {
        "q4f16_1_gemv": quantized_matmul.gemv(70, 416, q4, limits),
        "q4f16_1_gemm": quantized_matmul.gemm(70, 416, q4, limits),
        "q0f16_gemv": float_matmul.gemv(70, 416, q0, limits),
        "q0f16_gemm": float_matmul.gemm(70, 416, q0, limits),
        "rms_norm": rows.rms_norm(416, 1e-5, limits, "float16"),
    }


@pytest.mark.parametrize(("threads", "warp"), [(64, 8), (256, 1)])
def test_kernels_fit_other_gpus(threads: int, warp: int, emulate: Callable[..., Emulator]) -> None:
    emulated = emulate(small_gpu_kernels(threads, warp), "vulkan")
    assert all(launch.threads <= threads for launch in emulated.launches.values())
    draw = np.random.default_rng(0)
    for scheme in "q4f16_1", "q0f16":
        weights = reference.weights(SCHEMES[scheme], 70, 416, draw)
        for kernel, count in ("gemv", 1), ("gemm", 37):
            x, out = draw.standard_normal((count, 416)).astype(np.float16), reference.blank((count, 70), "float16")
            emulated(f"{scheme}_{kernel}", *weights.stored, x, out)
            np.testing.assert_allclose(out, x.astype(np.float64) @ weights.values.T, rtol=2.0**-10, atol=2.0**-10)
    x, out = draw.standard_normal((3, 416)).astype(np.float16), reference.blank((3, 416), "float16")
    emulated("rms_norm", x, np.ones(416, np.float16), out)
    wide = x.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, wanted, rtol=2.0**-10, atol=2.0**-16)


def test_kernels_refuse_what_does_not_fit() -> None:
    from compile.kernels.gpu import quantized_matmul, rows
    from compile.kernels.gpu.limits import Limits
    from toolchain.contracts.errors import UnknownTarget

    scheme = SCHEMES["q4f16_1"]
    with pytest.raises(UnknownTarget, match="shared memory"):
        quantized_matmul.gemm(64, 64, scheme, Limits(shared_bytes=16384))
    with pytest.raises(UnknownTarget, match="no float16"):
        quantized_matmul.gemv(64, 64, scheme, Limits(float16=False))
    with pytest.raises(UnknownTarget, match="no float16"):
        rows.gated(64, Limits(float16=False), "float16")
    quantized_matmul.gemv(64, 64, SCHEMES["q4f32_1"], Limits(float16=False))
