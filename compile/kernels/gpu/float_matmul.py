"""x · Wᵀ with W `[N, K]` in float16 or float32: for the schemes without quantization.

Every kernel takes W and `x [M, K]`, then a bias `[N]` and a residual `[M, N]` if it finishes with them, and gives
`out [M, N]` in `dtype`, else in the scheme's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.gpu.arithmetic import four, splat
from compile.kernels.gpu.limits import Limits
from compile.kernels.gpu.products import (
    COLUMNS,
    DEPTH,
    PITCH,
    SIDE,
    Tiling,
    Walk,
    clear,
    finish_gemv,
    load_tile,
    multiply_tiles,
    store_tile,
    without_unused,
)
from compile.schemes import Scheme


@cache
def gemv(N: int, K: int, scheme: Scheme, limits: Limits, finish: str = "", dtype: str | None = None) -> Any:
    """For one row of x (decoding).

    A lane reads four numbers of a row of W, its neighbours the next ones, of `SIDE` rows of W at once.
    """
    kind, out, units = scheme.dtype, dtype or scheme.dtype, K // 4
    walk = Walk.of(units, limits, kind)

    @T.prim_func(s_tir=True, private=True)
    def float_gemv(w: T.handle, x: T.handle, bias: T.handle, residual: T.handle, result: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        W = T.match_buffer(w, (N, K), kind)
        X = T.match_buffer(x, (1, K), kind)
        B = T.match_buffer(bias, (N,), kind)
        Y = T.match_buffer(residual, (1, N), kind)
        O = T.match_buffer(result, (1, N), out)
        for bx in T.thread_binding(-(-N // walk.columns), thread="blockIdx.x"):
            for ty in T.thread_binding(walk.heights, thread="threadIdx.y"):
                for tx in T.thread_binding(walk.lanes, thread="threadIdx.x"):
                    of_x = T.alloc_buffer((4,), "float32", scope="local")
                    sums = T.alloc_buffer((SIDE * 4,), "float32", scope="local")
                    part = T.alloc_buffer((walk.shared,), "float32", scope="shared")
                    first: T.let = (bx * walk.heights + ty) * SIDE
                    for r in T.unroll(SIDE):
                        sums[four(r * 4)] = splat(T.float32(0))
                    for step in T.serial(-(-units // walk.lanes)):
                        unit: T.let = step * walk.lanes + tx
                        if unit < units:
                            of_x[four(0)] = T.Cast("float32x4", X[0, four(unit * 4)])
                            for j in T.unroll(SIDE):
                                weights: T.let = T.Cast("float32x4", W[T.min(first + j, N - 1), four(unit * 4)])
                                sums[four(j * 4)] = sums[four(j * 4)] + weights * of_x[four(0)]
                    finish_gemv(O, sums, part, B, Y, first, (ty, tx), walk, N, finish, out)

    return without_unused(float_gemv, finish)


@cache
def gemm(N: int, K: int, scheme: Scheme, limits: Limits, finish: str = "", dtype: str | None = None) -> Any:
    """For many rows of x (prefill)."""
    kind, out = scheme.dtype, dtype or scheme.dtype
    tiling = Tiling.of(limits, kind)

    @T.prim_func(s_tir=True, private=True)
    def float_gemm(w: T.handle, x: T.handle, bias: T.handle, residual: T.handle, result: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        W = T.match_buffer(w, (N, K), kind)
        X = T.match_buffer(x, (M, K), kind)
        B = T.match_buffer(bias, (N,), kind)
        Y = T.match_buffer(residual, (M, N), kind)
        O = T.match_buffer(result, (M, N), out)
        for by in T.thread_binding((M + tiling.rows - 1) // tiling.rows, thread="blockIdx.y"):
            for bx in T.thread_binding(-(-N // COLUMNS), thread="blockIdx.x"):
                for t in T.thread_binding(tiling.threads, thread="threadIdx.x"):
                    tile_x = T.alloc_buffer((tiling.rows * PITCH,), "float32", scope="shared")
                    tile_w = T.alloc_buffer((COLUMNS * PITCH,), "float32", scope="shared")
                    sums = T.alloc_buffer((16,), "float32", scope="local")
                    clear(sums)
                    for step in T.serial(K // DEPTH):
                        load_tile(tile_x, X, by * tiling.rows, tiling.rows, M, step, t, tiling.threads)
                        load_tile(tile_w, W, bx * COLUMNS, COLUMNS, N, step, t, tiling.threads)
                        T.tvm_storage_sync("shared")
                        multiply_tiles(sums, tile_x, tile_w, t, M - by * tiling.rows, tiling)
                        T.tvm_storage_sync("shared")
                    store_tile(O, sums, B, Y, by * tiling.rows, bx * COLUMNS, t, (M, N), tiling, finish, out)

    return without_unused(float_gemm, finish)
