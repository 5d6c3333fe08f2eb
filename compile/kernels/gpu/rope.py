"""Rotary positions: queries and keys turned by their position, in transformers' half-split order.

The pair (d, d + D/2) of a head is turned by position · f[d]; see `toolchain/contracts/architectures/rope.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.gpu.limits import Limits

THREADS = 256
# 2 pi in three parts. Whole multiples of the first two are exact, and seven digits say all of them: TVM writes no more
# of a constant into Metal's source.
TURN = (6.28125, 0.001953125, -1.781782e-05)


def within_a_turn(angle: Any) -> Any:
    """An angle less its whole turns, as the fast sines of Metal and Vulkan want it."""
    turns = T.floor(angle * T.float32(1 / sum(TURN)) + T.float32(0.5))
    for part in TURN:
        angle = angle - turns * T.float32(part)
    return angle


@cache
def rotate(heads: int, kv_heads: int, head_size: int, limits: Limits, dtype: str) -> Any:
    """`qkv [M, (H + 2 KV) D]`, positions `[M]` int32 and inverse frequencies `[D/2]` float32, to `out` like `qkv`.

    Query and key heads are turned, values stay as they are. A thread for each pair.
    """
    half, turned, features = head_size // 2, heads + kv_heads, (heads + 2 * kv_heads) * head_size
    threads = min(THREADS, limits.threads)
    limits.require(threads, 0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def rotate_heads(qkv: T.handle, positions: T.handle, frequencies: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        X = T.match_buffer(qkv, (M, features), dtype)
        P = T.match_buffer(positions, (M,), "int32")
        F = T.match_buffer(frequencies, (half,), "float32")
        O = T.match_buffer(out, (M, features), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for part in T.thread_binding(-(-features // 2 // threads), thread="blockIdx.y"):
                for t in T.thread_binding(threads, thread="threadIdx.x"):
                    pair: T.let = part * threads + t
                    head: T.let = pair // half
                    d: T.let = pair % half
                    k: T.let = head * head_size + d
                    if pair < features // 2:
                        if head < turned:
                            angle: T.let = within_a_turn(T.Cast("float32", P[m]) * F[d])
                            first: T.let = T.Cast("float32", X[m, k])
                            second: T.let = T.Cast("float32", X[m, k + half])
                            O[m, k] = T.Cast(dtype, first * T.cos(angle) - second * T.sin(angle))
                            O[m, k + half] = T.Cast(dtype, second * T.cos(angle) + first * T.sin(angle))
                        else:
                            O[m, k] = X[m, k]
                            O[m, k + half] = X[m, k + half]

    return rotate_heads
