"""x · Wᵀ with W quantized as MLC stores it: words `[N, K/32 · bits]` uint32, lowest number first, scales `[N, K/32]`.

A weight is (number - middle) · scale, with a middle of 7 for 4 bits and 127 for 8. Weights are dequantized on the way
to the product, in registers or into a tile in shared memory, and never written to memory.

Every kernel takes words, scales and `x [M, K]`, then a bias `[N]` and a residual `[M, N]` if it finishes with them, and
gives `out [M, N]` in `dtype`, else in the scheme's.
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
from compile.schemes import GROUP, Scheme


def dequantized(word: Any, first: Any, scale: Any, scheme: Scheme) -> Any:
    """Four weights of a word, from its number `first` on, in float32.

    number · scale - middle · scale is one instruction a weight, and exact for scales in float16.
    """
    bits = scheme.bits
    shifts = T.Cast("uint32x4", T.ramp(first * bits, bits, 4))
    picked = (splat(word) >> shifts) & splat(T.uint32(2**bits - 1))
    middle = T.float32(scheme.middle) * scale
    return T.Cast("float32x4", T.Cast("int32x4", picked)) * splat(scale) - splat(middle)


@cache
def gemv(N: int, K: int, scheme: Scheme, limits: Limits, finish: str = "", dtype: str | None = None) -> Any:
    """For one row of x (decoding).

    A lane reads 128 bits of a row of W, its neighbours the next ones, so that every word is read once, and side by
    side. It walks `SIDE` rows of W at once: more reads are under way then, and x is read less often.
    """
    kind, out, bits = scheme.dtype, dtype or scheme.dtype, scheme.bits
    per_word, per_unit, units = scheme.per_word, 128 // bits, K * bits // 128
    walk = Walk.of(units, limits, kind)

    @T.prim_func(s_tir=True, private=True)
    def quantized_gemv(
        words: T.handle, scales: T.handle, x: T.handle, bias: T.handle, residual: T.handle, result: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        W = T.match_buffer(words, (N, K * bits // 32), "uint32")
        S = T.match_buffer(scales, (N, K // GROUP), kind)
        X = T.match_buffer(x, (1, K), kind)
        B = T.match_buffer(bias, (N,), kind)
        Y = T.match_buffer(residual, (1, N), kind)
        O = T.match_buffer(result, (1, N), out)
        for bx in T.thread_binding(-(-N // walk.columns), thread="blockIdx.x"):
            for ty in T.thread_binding(walk.heights, thread="threadIdx.y"):
                for tx in T.thread_binding(walk.lanes, thread="threadIdx.x"):
                    word = T.alloc_buffer((SIDE * 4,), "uint32", scope="local")
                    scale = T.alloc_buffer((SIDE,), "float32", scope="local")
                    of_x = T.alloc_buffer((4,), "float32", scope="local")
                    sums = T.alloc_buffer((SIDE * 4,), "float32", scope="local")
                    part = T.alloc_buffer((walk.shared,), "float32", scope="shared")
                    first: T.let = (bx * walk.heights + ty) * SIDE
                    for r in T.unroll(SIDE):
                        sums[four(r * 4)] = splat(T.float32(0))
                    for step in T.serial(-(-units // walk.lanes)):
                        unit: T.let = step * walk.lanes + tx
                        if unit < units:
                            # Rows beyond the last repeat it; their results are not stored.
                            for j in T.unroll(SIDE):
                                word[four(j * 4)] = W[T.min(first + j, N - 1), four(unit * 4)]
                                scale[j] = T.Cast("float32", S[T.min(first + j, N - 1), unit * per_unit // GROUP])
                            for c in T.unroll(4):
                                for e in T.unroll(per_word // 4):
                                    at: T.let = unit * per_unit + c * per_word + e * 4
                                    of_x[four(0)] = T.Cast("float32x4", X[0, four(at)])
                                    for j in T.unroll(SIDE):
                                        weights: T.let = dequantized(word[j * 4 + c], e * 4, scale[j], scheme)
                                        sums[four(j * 4)] = sums[four(j * 4)] + weights * of_x[four(0)]
                    finish_gemv(O, sums, part, B, Y, first, (ty, tx), walk, N, finish, out)

    return without_unused(quantized_gemv, finish)


@cache
def gemm(N: int, K: int, scheme: Scheme, limits: Limits, finish: str = "", dtype: str | None = None) -> Any:
    """For many rows of x (prefill)."""
    kind, out, bits = scheme.dtype, dtype or scheme.dtype, scheme.bits
    per_word, per_group = scheme.per_word, bits
    tiling = Tiling.of(limits, kind)

    @T.prim_func(s_tir=True, private=True)
    def quantized_gemm(
        words: T.handle, scales: T.handle, x: T.handle, bias: T.handle, residual: T.handle, result: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        W = T.match_buffer(words, (N, K * bits // 32), "uint32")
        S = T.match_buffer(scales, (N, K // GROUP), kind)
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
                    # A step is a group: one scale for each row of the tile of W.
                    for step in T.serial(K // DEPTH):
                        load_tile(tile_x, X, by * tiling.rows, tiling.rows, M, step, t, tiling.threads)
                        for turn in T.unroll(COLUMNS * per_group // tiling.threads):
                            at: T.let = turn * tiling.threads + t
                            n: T.let = T.min(bx * COLUMNS + at // per_group, N - 1)
                            scale: T.let = T.Cast("float32", S[n, step])
                            word: T.let = W[n, step * per_group + at % per_group]
                            for e in T.unroll(per_word // 4):
                                tile_w[four(at // per_group * PITCH + at % per_group * per_word + e * 4)] = dequantized(
                                    word, e * 4, scale, scheme
                                )
                        T.tvm_storage_sync("shared")
                        multiply_tiles(sums, tile_x, tile_w, t, M - by * tiling.rows, tiling)
                        T.tvm_storage_sync("shared")
                    store_tile(O, sums, B, Y, by * tiling.rows, bx * COLUMNS, t, (M, N), tiling, finish, out)

    return without_unused(quantized_gemm, finish)
