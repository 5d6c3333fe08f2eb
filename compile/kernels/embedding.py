"""Token plus position embedding, from q4f16_1 tables or from float tables, both in MLC's layout."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from compile.kernels.q4_matmul import GROUP


def _weight(words: Any, scales: Any, row: Any, k: Any) -> Any:
    """One dequantized weight: (nibble - 7) · scale."""
    nibble = (words[row, k // 8] >> T.Cast("uint32", (k % 8) * 4)) & T.uint32(15)
    return T.Cast("float32", T.Cast("int32", nibble) - 7) * T.Cast("float32", scales[row, k // GROUP])


def embed_q4(K: int) -> Any:
    """`ids [M]` to `out [M, K]` float32: row `ids[m]` of the token table plus row `position + m` of the other."""

    @T.prim_func(s_tir=True, private=True)
    def q4_embed(
        ids: T.handle,
        token_words: T.handle,
        token_scales: T.handle,
        place_words: T.handle,
        place_scales: T.handle,
        position: T.int64,
        out: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, V, P = T.int64(), T.int64(), T.int64()
        I = T.match_buffer(ids, (M,), "int32")
        TW = T.match_buffer(token_words, (V, K // 8), "uint32")
        TS = T.match_buffer(token_scales, (V, K // GROUP), "float16")
        PW = T.match_buffer(place_words, (P, K // 8), "uint32")
        PS = T.match_buffer(place_scales, (P, K // GROUP), "float16")
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K):
                O[m, k] = _weight(TW, TS, T.Cast("int64", I[m]), k) + _weight(PW, PS, position + m, k)

    return q4_embed


def embed(K: int, dtype: str) -> Any:
    """The same from tables of floats."""

    @T.prim_func(s_tir=True, private=True)
    def float_embed(ids: T.handle, tokens: T.handle, places: T.handle, position: T.int64, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, V, P = T.int64(), T.int64(), T.int64()
        I = T.match_buffer(ids, (M,), "int32")
        W = T.match_buffer(tokens, (V, K), dtype)
        PW = T.match_buffer(places, (P, K), dtype)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K):
                O[m, k] = T.Cast("float32", W[T.Cast("int64", I[m]), k]) + T.Cast("float32", PW[position + m, k])

    return float_embed
