"""Rotary positions: queries and keys turned by their position, in transformers' half-split order.

The pair (d, d + D/2) of a head is turned by position · f[d]; see `toolchain/contracts/architectures/rope.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T


@cache
def positions() -> Any:
    """`out [M]` int32: `first`, `first + 1`, and so on."""

    @T.prim_func(s_tir=True, private=True)
    def token_positions(first: T.int64, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        O = T.match_buffer(out, (M,), "int32")
        for m in T.serial(M):
            O[m] = T.Cast("int32", first + m)

    return token_positions


@cache
def angles(head_size: int) -> Any:
    """Positions `[M]` and inverse frequencies `[D / 2]` to `out [M, D]`: cosines, then sines. Once for all layers."""
    half = head_size // 2

    @T.prim_func(s_tir=True, private=True)
    def rope_angles(places: T.handle, frequencies: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        P = T.match_buffer(places, (M,), "int32")
        F = T.match_buffer(frequencies, (half,), "float32")
        O = T.match_buffer(out, (M, 2 * half), "float32")
        for m in T.parallel(M):
            for d in T.serial(half):
                angle: T.let = T.Cast("float32", P[m]) * F[d]
                O[m, d] = T.cos(angle)
                O[m, half + d] = T.sin(angle)

    return rope_angles


@cache
def rotate(heads: int, kv_heads: int, head_size: int) -> Any:
    """`qkv [M, (H + 2 KV) D]` with its query and key heads turned by `angles [M, D]`; values as they are."""
    half, turned, features = head_size // 2, heads + kv_heads, (heads + 2 * kv_heads) * head_size

    @T.prim_func(s_tir=True, private=True)
    def rotate_heads(qkv: T.handle, turns: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(qkv, (M, features), "float32")
        A = T.match_buffer(turns, (M, 2 * half), "float32")
        O = T.match_buffer(out, (M, features), "float32")
        for m in T.parallel(M):
            for h in T.serial(turned):
                for d in T.vectorized(half):
                    first: T.let = X[m, h * head_size + d]
                    second: T.let = X[m, h * head_size + half + d]
                    O[m, h * head_size + d] = first * A[m, d] - second * A[m, half + d]
                    O[m, h * head_size + half + d] = second * A[m, d] + first * A[m, half + d]
            for k in T.serial(features - turned * head_size):
                O[m, turned * head_size + k] = X[m, turned * head_size + k]

    return rotate_heads
