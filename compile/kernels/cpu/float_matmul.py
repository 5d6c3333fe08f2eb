"""x · Wᵀ with W in float16 or float32 as it lies on disk, `[N, K]`: for the schemes without quantization.

The exact counterpart that quantized models are compared with; correct first, and vectorized along K.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.cpu.vector import reduce_add, splat


@cache
def matmul(N: int, K: int, lanes: int, dtype: str) -> Any:
    """W `[N, K]` and `x [M, K]` to `out [M, N]` float32."""
    floats = f"float32x{lanes}"

    @T.prim_func(s_tir=True, private=True)
    def float_matmul(w: T.handle, x: T.handle, o: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        W = T.match_buffer(w, (N, K), dtype)
        X = T.match_buffer(x, (M, K), "float32")
        O = T.match_buffer(o, (M, N), "float32")
        for n in T.parallel(N):
            for m in T.serial(M):
                acc = T.alloc_buffer((lanes,), "float32", scope="local")
                acc[T.ramp(0, 1, lanes)] = splat(0.0, lanes)
                for k in T.serial(K // lanes):
                    acc[T.ramp(0, 1, lanes)] = acc[T.ramp(0, 1, lanes)] + X[m, T.ramp(k * lanes, 1, lanes)] * T.Cast(
                        floats, W[n, T.ramp(k * lanes, 1, lanes)]
                    )
                O[m, n] = reduce_add(acc[T.ramp(0, 1, lanes)])

    return float_matmul
