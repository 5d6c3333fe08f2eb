"""Token and position embedding: rows gathered from a quantized table, in MLC's own layout, or from a float table.

With `added`, the kernel takes `x [M, K]` after the table and gives its sum with the rows: token embeddings first, then
learned positions from a second table.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from compile.kernels.gpu.arithmetic import four
from compile.kernels.gpu.limits import Limits
from compile.kernels.gpu.quantized_matmul import dequantized
from compile.schemes import GROUP, Scheme

THREADS = 256


@cache
def gather_quantized(K: int, scheme: Scheme, limits: Limits, added: bool = False) -> Any:
    """Row `ids[m]` of a table of words `[V, K/32 · bits]` and scales `[V, K/32]`, to `out [M, K]`."""
    dtype, per_word, words_of_row = scheme.dtype, scheme.per_word, K // scheme.per_word
    threads = min(THREADS, limits.threads)
    limits.require(threads, 0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def quantized_embed(ids: T.handle, words: T.handle, scales: T.handle, x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, V = T.int32(), T.int32()
        I = T.match_buffer(ids, (M,), "int32")
        W = T.match_buffer(words, (V, words_of_row), "uint32")
        S = T.match_buffer(scales, (V, K // GROUP), dtype)
        X = T.match_buffer(x, (M, K), dtype)
        O = T.match_buffer(out, (M, K), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for part in T.thread_binding(-(-words_of_row // threads), thread="blockIdx.y"):
                for t in T.thread_binding(threads, thread="threadIdx.x"):
                    w: T.let = part * threads + t
                    if w < words_of_row:
                        word: T.let = W[I[m], w]
                        scale: T.let = T.Cast("float32", S[I[m], w * per_word // GROUP])
                        for e in T.unroll(per_word // 4):
                            numbers: T.let = dequantized(word, e * 4, scale, scheme)
                            at: T.let = w * per_word + e * 4
                            if added:
                                O[m, four(at)] = T.Cast(f"{dtype}x4", numbers + T.Cast("float32x4", X[m, four(at)]))
                            else:
                                O[m, four(at)] = T.Cast(f"{dtype}x4", numbers)

    return _without_x(quantized_embed, added)


@cache
def gather(K: int, dtype: str, limits: Limits, added: bool = False) -> Any:
    """Row `ids[m]` of a float table `[V, K]` to `out [M, K]`."""
    threads = min(THREADS, limits.threads)
    limits.require(threads, 0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def float_embed(ids: T.handle, table: T.handle, x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, V = T.int32(), T.int32()
        I = T.match_buffer(ids, (M,), "int32")
        W = T.match_buffer(table, (V, K), dtype)
        X = T.match_buffer(x, (M, K), dtype)
        O = T.match_buffer(out, (M, K), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for part in T.thread_binding(-(-K // threads), thread="blockIdx.y"):
                for t in T.thread_binding(threads, thread="threadIdx.x"):
                    k: T.let = part * threads + t
                    if k < K:
                        if added:
                            O[m, k] = T.Cast(dtype, T.Cast("float32", W[I[m], k]) + T.Cast("float32", X[m, k]))
                        else:
                            O[m, k] = W[I[m], k]

    return _without_x(float_embed, added)


def _without_x(kernel: Any, added: bool) -> Any:
    """A kernel less its parameter X, unless it adds to it."""
    if added:
        return kernel
    parameters = [parameter for parameter in kernel.params if parameter.name != "X"]
    return tirx.PrimFunc(parameters, kernel.body, kernel.ret_type, kernel.attrs)
