"""Causal attention over an explicit KV cache, for multi-query and grouped-query models.

The cache of all layers is two tensors, in blocks of L tokens:

    keys    [layers, kv_heads, blocks, D, L]    the same component of L tokens side by side, for q · k
    values  [layers, kv_heads, blocks, L, D]    the components of one token side by side, for p · v

Nothing is ever moved: rolling back is calling with a lower `position`.
`qkv [M, (H + 2 KV) D]` holds the query heads, then the key heads, then the value heads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.cpu.vector import exp, reduce_add, reduce_max, splat

NEVER = -1e30
LONGEST = 1 << 40
PREFILL_WORKERS = 16


@cache
def append(heads: int, kv_heads: int, head_size: int, lanes: int, dtype: str) -> Any:
    """Write the keys and values of M tokens to the cache of one layer, from `position` on."""
    D = head_size

    @T.prim_func(s_tir=True, private=True)
    def kv_append(qkv: T.handle, keys: T.handle, values: T.handle, layer: T.int64, position: T.int64):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, layers, blocks = T.int64(), T.int64(), T.int64()
        X = T.match_buffer(qkv, (M, (heads + 2 * kv_heads) * D), "float32")
        KC = T.match_buffer(keys, (layers, kv_heads, blocks, D, lanes), dtype)
        VC = T.match_buffer(values, (layers, kv_heads, blocks, lanes, D), dtype)
        for m in T.serial(M):
            for g in T.serial(kv_heads):
                for d in T.serial(D):
                    KC[layer, g, (position + m) // lanes, d, (position + m) % lanes] = T.Cast(
                        dtype, X[m, (heads + g) * D + d]
                    )
                    VC[layer, g, (position + m) // lanes, (position + m) % lanes, d] = T.Cast(
                        dtype, X[m, (heads + kv_heads + g) * D + d]
                    )

    return kv_append


def heads_together(group: int) -> int:
    """How many of the `group` query heads of a key head share a pass over its keys: as many as registers hold, but no
    more than half of them, so that there are two passes for two workers.
    """
    return next(count for count in (8, 4, 2, 1) if group % count == 0 and (group // count > 1 or count == 1))


@cache
def attention(
    heads: int, kv_heads: int, head_size: int, lanes: int, dtype: str, window: int | None, one_row: bool
) -> Any:
    """softmax(q · kᵀ / sqrt(D)) · v for M query tokens at `position`, each seeing itself and what comes before.

    With a `window`, a token sees that many tokens at most, itself included.
    A job is one token with `RB` heads. Jobs are dealt to workers in turn, because later tokens see more keys.
    """
    D, H, KV = head_size, heads, kv_heads
    RB = heads_together(H // KV)
    jobs = H // RB
    workers = jobs if one_row else PREFILL_WORKERS
    floats, scale = f"float32x{lanes}", head_size**-0.5
    reach = T.int64(window or LONGEST)

    @T.prim_func(s_tir=True, private=True)
    def causal_attention(
        qkv: T.handle, keys: T.handle, values: T.handle, layer: T.int64, position: T.int64, out: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, layers, blocks = T.int64(), T.int64(), T.int64()
        X = T.match_buffer(qkv, (M, (H + 2 * KV) * D), "float32")
        KC = T.match_buffer(keys, (layers, KV, blocks, D, lanes), dtype)
        VC = T.match_buffer(values, (layers, KV, blocks, lanes, D), dtype)
        O = T.match_buffer(out, (M, H * D), "float32")
        for worker in T.parallel(workers):
            score = T.alloc_buffer((blocks * RB, lanes), "float32", scope="global")
            acc = T.alloc_buffer((RB * lanes,), "float32", scope="local")
            for turn in T.serial((M * jobs - worker + workers - 1) // workers):
                job: T.let = worker + workers * turn
                m: T.let = job // jobs
                h: T.let = (job % jobs) * RB
                g: T.let = h // (H // KV)
                seen: T.let = position + m + 1
                used: T.let = (seen + lanes - 1) // lanes
                first: T.let = T.max(seen - reach, T.int64(0))
                start: T.let = first // lanes
                for b in T.serial(start, used):
                    for r in T.unroll(RB):
                        acc[T.ramp(r * lanes, 1, lanes)] = splat(0.0, lanes)
                    for d in T.serial(D):
                        key: T.let = T.Cast(floats, KC[layer, g, b, d, T.ramp(0, 1, lanes)])
                        for r in T.unroll(RB):
                            acc[T.ramp(r * lanes, 1, lanes)] = acc[T.ramp(r * lanes, 1, lanes)] + key * T.Broadcast(
                                X[m, (h + r) * D + d], lanes
                            )
                    for r in T.unroll(RB):
                        score[b * RB + r, T.ramp(0, 1, lanes)] = acc[T.ramp(r * lanes, 1, lanes)]
                for r in T.serial(RB):
                    for t in T.serial(used * lanes - seen):
                        score[(used - 1) * RB + r, lanes - 1 - t] = T.float32(NEVER)
                    for t in T.serial(first - start * lanes):
                        score[start * RB + r, t] = T.float32(NEVER)
                    acc[T.ramp(0, 1, lanes)] = splat(NEVER, lanes)
                    for b in T.serial(start, used):
                        acc[T.ramp(0, 1, lanes)] = T.max(
                            acc[T.ramp(0, 1, lanes)], score[b * RB + r, T.ramp(0, 1, lanes)]
                        )
                    greatest: T.let = reduce_max(acc[T.ramp(0, 1, lanes)])
                    acc[T.ramp(0, 1, lanes)] = splat(0.0, lanes)
                    for b in T.serial(start, used):
                        weight: T.let = exp(
                            (score[b * RB + r, T.ramp(0, 1, lanes)] - T.Broadcast(greatest, lanes))
                            * splat(scale, lanes),
                            lanes,
                        )
                        score[b * RB + r, T.ramp(0, 1, lanes)] = weight
                        acc[T.ramp(0, 1, lanes)] = acc[T.ramp(0, 1, lanes)] + weight
                    share: T.let = T.float32(1) / reduce_add(acc[T.ramp(0, 1, lanes)])
                    for b in T.serial(start, used):
                        score[b * RB + r, T.ramp(0, 1, lanes)] = score[b * RB + r, T.ramp(0, 1, lanes)] * T.Broadcast(
                            share, lanes
                        )
                for dv in T.serial(D // lanes):
                    for r in T.unroll(RB):
                        acc[T.ramp(r * lanes, 1, lanes)] = splat(0.0, lanes)
                    for t in T.serial(first, seen):
                        value: T.let = T.Cast(floats, VC[layer, g, t // lanes, t % lanes, T.ramp(dv * lanes, 1, lanes)])
                        for r in T.unroll(RB):
                            acc[T.ramp(r * lanes, 1, lanes)] = acc[T.ramp(r * lanes, 1, lanes)] + value * T.Broadcast(
                                score[(t // lanes) * RB + r, t % lanes], lanes
                            )
                    for r in T.unroll(RB):
                        O[m, T.ramp((h + r) * D + dv * lanes, 1, lanes)] = acc[T.ramp(r * lanes, 1, lanes)]

    return causal_attention
