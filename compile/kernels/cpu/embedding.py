"""Embedding: rows gathered from a table, quantized and packed as for a product, or of floats."""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.schemes import GROUP, Scheme


@cache
def gather_quantized(K: int, lanes: int, scheme: Scheme) -> Any:
    """Row `ids[m]` of a table packed as `quantized_matmul` packs it, to `out [M, K]` float32.

    Packed alike, one copy of a tied table serves as embedding and as head.
    """
    bits, per_word, middle, mask = scheme.bits, scheme.per_word, float(scheme.middle), 2**scheme.bits - 1
    kind = scheme.dtype

    @T.prim_func(s_tir=True, private=True)
    def quantized_embed(ids: T.handle, words: T.handle, scales: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, blocks = T.int64(), T.int64()
        I = T.match_buffer(ids, (M,), "int32")
        W = T.match_buffer(words, (blocks, K // GROUP, bits, lanes), "uint32")
        S = T.match_buffer(scales, (blocks, K // GROUP, lanes), kind)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            row: T.let = T.Cast("int64", I[m])
            for g in T.serial(K // GROUP):
                scale: T.let = T.Cast("float32", S[row // lanes, g, row % lanes])
                for c in T.serial(bits):
                    word: T.let = W[row // lanes, g, c, row % lanes]
                    for i in T.unroll(per_word):
                        q: T.let = (word >> T.Cast("uint32", i * bits)) & T.uint32(mask)
                        O[m, g * GROUP + c * per_word + i] = (
                            T.Cast("float32", T.Cast("int32", q)) - T.float32(middle)
                        ) * scale

    return quantized_embed


@cache
def gather(K: int, dtype: str) -> Any:
    """Row `ids[m]` of a float table `[V, K]` to `out [M, K]` float32."""

    @T.prim_func(s_tir=True, private=True)
    def float_embed(ids: T.handle, table: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, V = T.int64(), T.int64()
        I = T.match_buffer(ids, (M,), "int32")
        W = T.match_buffer(table, (V, K), dtype)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K):
                O[m, k] = T.Cast("float32", W[T.Cast("int64", I[m]), k])

    return float_embed
