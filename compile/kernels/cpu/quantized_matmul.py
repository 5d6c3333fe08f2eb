"""x · Wᵀ with W group-quantized: one kernel for a single row (decode), one for many (prefill), and the weight packing.

MLC stores W as words `[N, K/32 · bits]` uint32 (32 / bits numbers a word, lowest first) and scales `[N, K/32]`; a
weight is (q - middle) · scale, with middle 7 for 4 bits and 127 for 8. The kernels want L neighbouring rows side by
side, so that one vector load brings the same word of L rows: `[N/L, K/32, bits, L]` and `[N/L, K/32, L]`. The
repacking loses nothing; rows beyond N are zero.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.cpu.vector import splat
from compile.schemes import GROUP, Scheme

TILE_ROWS = 4


@cache
def pack_words(lanes: int, bits: int) -> Any:
    """`[N, K/32 · bits]` to `[ceil(N/L), K/32, bits, L]`."""

    @T.prim_func(s_tir=True, private=True)
    def pack_q_weight(source: T.handle, packed: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        N, W, B, G = T.int64(), T.int64(), T.int64(), T.int64()
        S = T.match_buffer(source, (N, W), "uint32")
        P = T.match_buffer(packed, (B, G, bits, lanes), "uint32")
        for b in T.parallel(B):
            for g in T.serial(G):
                for c in T.serial(bits):
                    for n in T.serial(lanes):
                        if b * lanes + n < N:
                            P[b, g, c, n] = S[b * lanes + n, g * bits + c]
                        else:
                            P[b, g, c, n] = T.uint32(0)

    return pack_q_weight


@cache
def pack_scales(lanes: int, dtype: str) -> Any:
    """`[N, K/32]` to `[ceil(N/L), K/32, L]`."""

    @T.prim_func(s_tir=True, private=True)
    def pack_q_scale(source: T.handle, packed: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        N, G, B = T.int64(), T.int64(), T.int64()
        S = T.match_buffer(source, (N, G), dtype)
        P = T.match_buffer(packed, (B, G, lanes), dtype)
        for b in T.parallel(B):
            for g in T.serial(G):
                for n in T.serial(lanes):
                    if b * lanes + n < N:
                        P[b, g, n] = S[b * lanes + n, g]
                    else:
                        P[b, g, n] = T.Cast(dtype, 0)

    return pack_q_scale


def side_by_side(N: int, lanes: int) -> int:
    """How many blocks of L weight rows one loop walks: each broadcast of x then serves all of them."""
    blocks = -(-N // lanes)
    return next(count for count in (4, 3, 2, 1) if blocks % count == 0)


@cache
def gemv(N: int, K: int, lanes: int, scheme: Scheme) -> Any:
    """One row: packed W and `x [1, K]` to `out [1, N]`, float32.

    The middle is taken out of the loop: sum((q - middle) x) = sum(q x) - middle · sum(x), the last once a group.
    """
    G, NB, blocks = K // GROUP, side_by_side(N, lanes), -(-N // lanes)
    bits, per_word, middle, mask = scheme.bits, scheme.per_word, float(scheme.middle), 2**scheme.bits - 1
    floats, ints, kind = f"float32x{lanes}", f"int32x{lanes}", scheme.dtype

    @T.prim_func(s_tir=True, private=True)
    def quantized_gemv(w: T.handle, s: T.handle, x: T.handle, o: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        W = T.match_buffer(w, (blocks, G, bits, lanes), "uint32")
        S = T.match_buffer(s, (blocks, G, lanes), kind)
        X = T.match_buffer(x, (1, K), "float32")
        O = T.match_buffer(o, (1, N), "float32")
        offset = T.alloc_buffer((G,), "float32", scope="global")
        for g in T.serial(G):
            offset[g] = T.float32(0)
            for k in T.serial(GROUP):
                offset[g] = offset[g] - T.float32(middle) * X[0, g * GROUP + k]
        for nb in T.parallel(blocks // NB):
            total = T.alloc_buffer((NB * lanes,), "float32", scope="local")
            group = T.alloc_buffer((NB * lanes,), "float32", scope="local")
            for n in T.unroll(NB):
                total[T.ramp(n * lanes, 1, lanes)] = splat(0.0, lanes)
            for g in T.serial(G):
                for n in T.unroll(NB):
                    group[T.ramp(n * lanes, 1, lanes)] = T.Broadcast(offset[g], lanes)
                for c in T.unroll(bits):
                    for n in T.unroll(NB):
                        words: T.let = W[nb * NB + n, g, c, T.ramp(0, 1, lanes)]
                        for i in T.unroll(per_word):
                            q: T.let = (words >> T.Broadcast(T.Cast("uint32", i * bits), lanes)) & T.Broadcast(
                                T.uint32(mask), lanes
                            )
                            group[T.ramp(n * lanes, 1, lanes)] = group[T.ramp(n * lanes, 1, lanes)] + T.Cast(
                                floats, T.reinterpret(q, dtype=ints)
                            ) * T.Broadcast(X[0, g * GROUP + c * per_word + i], lanes)
                for n in T.unroll(NB):
                    scale: T.let = T.Cast(floats, S[nb * NB + n, g, T.ramp(0, 1, lanes)])
                    total[T.ramp(n * lanes, 1, lanes)] = (
                        total[T.ramp(n * lanes, 1, lanes)] + group[T.ramp(n * lanes, 1, lanes)] * scale
                    )
            for n in T.unroll(NB):
                if (nb * NB + n) * lanes + lanes <= N:
                    O[0, T.ramp((nb * NB + n) * lanes, 1, lanes)] = total[T.ramp(n * lanes, 1, lanes)]
                else:
                    for j in T.serial(N - (nb * NB + n) * lanes):
                        O[0, (nb * NB + n) * lanes + j] = total[n * lanes + j]

    return quantized_gemv


@cache
def gemm(N: int, K: int, lanes: int, scheme: Scheme) -> Any:
    """Many rows: packed W and `x [M, K]` to `out [M, N]`, float32.

    Two blocks of L weight rows are dequantized once into a panel `[K, 2L]` that stays in the cache, and all rows
    of x, `TILE_ROWS` at a time, are multiplied with it.
    """
    G, blocks, R = K // GROUP, -(-N // lanes), TILE_ROWS
    NB = 2 if blocks % 2 == 0 else 1
    bits, per_word, middle, mask = scheme.bits, scheme.per_word, float(scheme.middle), 2**scheme.bits - 1
    floats, ints, kind = f"float32x{lanes}", f"int32x{lanes}", scheme.dtype

    @T.prim_func(s_tir=True, private=True)
    def quantized_gemm(w: T.handle, s: T.handle, x: T.handle, o: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        W = T.match_buffer(w, (blocks, G, bits, lanes), "uint32")
        S = T.match_buffer(s, (blocks, G, lanes), kind)
        X = T.match_buffer(x, (M, K), "float32")
        O = T.match_buffer(o, (M, N), "float32")
        for nb in T.parallel(blocks // NB):
            panel = T.alloc_buffer((K, NB * lanes), "float32", scope="global")
            acc = T.alloc_buffer((R * NB * lanes,), "float32", scope="local")
            for g in T.serial(G):
                for n in T.unroll(NB):
                    scale: T.let = T.Cast(floats, S[nb * NB + n, g, T.ramp(0, 1, lanes)])
                    for c in T.unroll(bits):
                        words: T.let = W[nb * NB + n, g, c, T.ramp(0, 1, lanes)]
                        for i in T.unroll(per_word):
                            q: T.let = (words >> T.Broadcast(T.Cast("uint32", i * bits), lanes)) & T.Broadcast(
                                T.uint32(mask), lanes
                            )
                            panel[g * GROUP + c * per_word + i, T.ramp(n * lanes, 1, lanes)] = (
                                T.Cast(floats, T.reinterpret(q, dtype=ints)) - splat(middle, lanes)
                            ) * scale
            for mt in T.serial((M + R - 1) // R):
                for j in T.unroll(R * NB):
                    acc[T.ramp(j * lanes, 1, lanes)] = splat(0.0, lanes)
                for k in T.serial(K):
                    for r in T.unroll(R):
                        # The last tile repeats the last row instead of reading past it.
                        row: T.let = T.min(mt * R + r, M - 1)
                        value: T.let = T.Broadcast(X[row, k], lanes)
                        for n in T.unroll(NB):
                            acc[T.ramp((r * NB + n) * lanes, 1, lanes)] = (
                                acc[T.ramp((r * NB + n) * lanes, 1, lanes)]
                                + value * panel[k, T.ramp(n * lanes, 1, lanes)]
                            )
                for r in T.unroll(R):
                    if mt * R + r < M:
                        for n in T.unroll(NB):
                            if (nb * NB + n) * lanes + lanes <= N:
                                O[mt * R + r, T.ramp((nb * NB + n) * lanes, 1, lanes)] = acc[
                                    T.ramp((r * NB + n) * lanes, 1, lanes)
                                ]
                            else:
                                for j in T.serial(N - (nb * NB + n) * lanes):
                                    O[mt * R + r, (nb * NB + n) * lanes + j] = acc[(r * NB + n) * lanes + j]

    return quantized_gemm
