"""What happens to each row of activations between the matrix products, which finish themselves (`products.finished`).

Weights, biases and activations have `dtype`; the arithmetic is float32. A norm has a block for each row, the others a
thread for each number. Constants are such that seven digits say all: TVM writes no more of them into Metal's source.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.gpu.arithmetic import silu
from compile.kernels.gpu.limits import Limits

THREADS = 256


@T.macro
def sum_threads(part, t, threads):
    """`part [threads]` in shared memory, each thread's own number before, summed to `part[0]` for all to read."""
    for level in T.unroll(threads.bit_length() - 1):
        T.tvm_storage_sync("shared")
        if t < (threads >> (level + 1)):
            part[t] = part[t] + part[t + (threads >> (level + 1))]
    T.tvm_storage_sync("shared")


@cache
def layer_norm(K: int, epsilon: float, limits: Limits, dtype: str) -> Any:
    """(x - mean) / sqrt(variance + epsilon) · gamma + beta for `x [M, K]`.

    The variance takes a second pass, because the mean of squares loses digits.
    """
    threads = min(THREADS, limits.threads)
    limits.require(threads, threads * 8, dtype)

    @T.prim_func(s_tir=True, private=True)
    def layer_norm_rows(x: T.handle, gamma: T.handle, beta: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        X = T.match_buffer(x, (M, K), dtype)
        GA = T.match_buffer(gamma, (K,), dtype)
        BE = T.match_buffer(beta, (K,), dtype)
        O = T.match_buffer(out, (M, K), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for t in T.thread_binding(threads, thread="threadIdx.x"):
                of_x = T.alloc_buffer((threads,), "float32", scope="shared")
                of_squares = T.alloc_buffer((threads,), "float32", scope="shared")
                total = T.alloc_buffer((1,), "float32", scope="local")
                total[0] = T.float32(0)
                for step in T.serial(-(-K // threads)):
                    if step * threads + t < K:
                        total[0] = total[0] + T.Cast("float32", X[m, step * threads + t])
                of_x[t] = total[0]
                sum_threads(of_x, t, threads)
                mean: T.let = of_x[0] / T.float32(K)
                total[0] = T.float32(0)
                for step in T.serial(-(-K // threads)):
                    if step * threads + t < K:
                        distance: T.let = T.Cast("float32", X[m, step * threads + t]) - mean
                        total[0] = total[0] + distance * distance
                of_squares[t] = total[0]
                sum_threads(of_squares, t, threads)
                inverse: T.let = T.rsqrt(of_squares[0] / T.float32(K) + T.float32(epsilon))
                for step in T.serial(-(-K // threads)):
                    k: T.let = step * threads + t
                    if k < K:
                        O[m, k] = T.Cast(
                            dtype,
                            (T.Cast("float32", X[m, k]) - mean) * inverse * T.Cast("float32", GA[k])
                            + T.Cast("float32", BE[k]),
                        )

    return layer_norm_rows


@cache
def rms_norm(K: int, epsilon: float, limits: Limits, dtype: str) -> Any:
    """x / sqrt(mean(x²) + epsilon) · gamma for `x [M, K]`."""
    threads = min(THREADS, limits.threads)
    limits.require(threads, threads * 4, dtype)

    @T.prim_func(s_tir=True, private=True)
    def rms_norm_rows(x: T.handle, gamma: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        X = T.match_buffer(x, (M, K), dtype)
        GA = T.match_buffer(gamma, (K,), dtype)
        O = T.match_buffer(out, (M, K), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for t in T.thread_binding(threads, thread="threadIdx.x"):
                of_squares = T.alloc_buffer((threads,), "float32", scope="shared")
                total = T.alloc_buffer((1,), "float32", scope="local")
                total[0] = T.float32(0)
                for step in T.serial(-(-K // threads)):
                    if step * threads + t < K:
                        number: T.let = T.Cast("float32", X[m, step * threads + t])
                        total[0] = total[0] + number * number
                of_squares[t] = total[0]
                sum_threads(of_squares, t, threads)
                inverse: T.let = T.rsqrt(of_squares[0] / T.float32(K) + T.float32(epsilon))
                for step in T.serial(-(-K // threads)):
                    k: T.let = step * threads + t
                    if k < K:
                        O[m, k] = T.Cast(dtype, T.Cast("float32", X[m, k]) * inverse * T.Cast("float32", GA[k]))

    return rms_norm_rows


@cache
def gated(K: int, limits: Limits, dtype: str) -> Any:
    """SwiGLU's middle, silu(x[:, :K]) · x[:, K:] for `x [M, 2K]`, to `[M, K]`."""
    threads = min(THREADS, limits.threads)
    limits.require(threads, 0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def gated_rows(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int32()
        X = T.match_buffer(x, (M, 2 * K), dtype)
        O = T.match_buffer(out, (M, K), dtype)
        for m in T.thread_binding(M, thread="blockIdx.x"):
            for part in T.thread_binding(-(-K // threads), thread="blockIdx.y"):
                for t in T.thread_binding(threads, thread="threadIdx.x"):
                    k: T.let = part * threads + t
                    if k < K:
                        gate: T.let = T.Cast("float32", X[m, k])
                        O[m, k] = T.Cast(dtype, silu(gate) * T.Cast("float32", X[m, K + k]))

    return gated_rows


@cache
def take_rows(K: int, limits: Limits, dtype: str) -> Any:
    """Rows `rows [B]` int32 of `x [M, K]`, as `[B, K]`: only the last token of each prompt needs logits."""
    threads = min(THREADS, limits.threads)
    limits.require(threads, 0, dtype)

    @T.prim_func(s_tir=True, private=True)
    def take_rows_of(x: T.handle, rows: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, B = T.int32(), T.int32()
        X = T.match_buffer(x, (M, K), dtype)
        I = T.match_buffer(rows, (B,), "int32")
        O = T.match_buffer(out, (B, K), dtype)
        for b in T.thread_binding(B, thread="blockIdx.x"):
            for part in T.thread_binding(-(-K // threads), thread="blockIdx.y"):
                for t in T.thread_binding(threads, thread="threadIdx.x"):
                    k: T.let = part * threads + t
                    if k < K:
                        O[b, k] = X[I[b], k]

    return take_rows_of
