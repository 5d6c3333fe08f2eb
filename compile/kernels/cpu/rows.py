"""What happens to each row of activations between the matrix products: norms, biases, activations, residuals.

All rows are float32; weights and biases have the dtype of the scheme. K must be a multiple of the lanes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.script import tirx as T

from compile.kernels.cpu.vector import gelu, reduce_add, silu, splat


@cache
def layer_norm(K: int, epsilon: float, lanes: int, dtype: str) -> Any:
    """(x - mean) / sqrt(variance + epsilon) · gamma + beta for `x [M, K]`.

    The variance takes a second pass, because the mean of squares loses digits.
    """
    floats = f"float32x{lanes}"

    @T.prim_func(s_tir=True, private=True)
    def layer_norm_rows(x: T.handle, gamma: T.handle, beta: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        GA = T.match_buffer(gamma, (K,), dtype)
        BE = T.match_buffer(beta, (K,), dtype)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            acc = T.alloc_buffer((lanes,), "float32", scope="local")
            acc[T.ramp(0, 1, lanes)] = splat(0.0, lanes)
            for k in T.serial(K // lanes):
                acc[T.ramp(0, 1, lanes)] = acc[T.ramp(0, 1, lanes)] + X[m, T.ramp(k * lanes, 1, lanes)]
            mean: T.let = T.Broadcast(reduce_add(acc[T.ramp(0, 1, lanes)]) / T.float32(K), lanes)
            acc[T.ramp(0, 1, lanes)] = splat(0.0, lanes)
            for k in T.serial(K // lanes):
                distance: T.let = X[m, T.ramp(k * lanes, 1, lanes)] - mean
                acc[T.ramp(0, 1, lanes)] = acc[T.ramp(0, 1, lanes)] + distance * distance
            variance: T.let = reduce_add(acc[T.ramp(0, 1, lanes)]) / T.float32(K)
            inverse: T.let = T.Broadcast(T.float32(1) / T.sqrt(variance + T.float32(epsilon)), lanes)
            for k in T.serial(K // lanes):
                O[m, T.ramp(k * lanes, 1, lanes)] = (X[m, T.ramp(k * lanes, 1, lanes)] - mean) * inverse * T.Cast(
                    floats, GA[T.ramp(k * lanes, 1, lanes)]
                ) + T.Cast(floats, BE[T.ramp(k * lanes, 1, lanes)])

    return layer_norm_rows


@cache
def rms_norm(K: int, epsilon: float, lanes: int, dtype: str) -> Any:
    """x / sqrt(mean(x²) + epsilon) · gamma for `x [M, K]`."""
    floats = f"float32x{lanes}"

    @T.prim_func(s_tir=True, private=True)
    def rms_norm_rows(x: T.handle, gamma: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        GA = T.match_buffer(gamma, (K,), dtype)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            acc = T.alloc_buffer((lanes,), "float32", scope="local")
            acc[T.ramp(0, 1, lanes)] = splat(0.0, lanes)
            for k in T.serial(K // lanes):
                value: T.let = X[m, T.ramp(k * lanes, 1, lanes)]
                acc[T.ramp(0, 1, lanes)] = acc[T.ramp(0, 1, lanes)] + value * value
            square: T.let = reduce_add(acc[T.ramp(0, 1, lanes)]) / T.float32(K)
            inverse: T.let = T.Broadcast(T.float32(1) / T.sqrt(square + T.float32(epsilon)), lanes)
            for k in T.serial(K // lanes):
                O[m, T.ramp(k * lanes, 1, lanes)] = (
                    X[m, T.ramp(k * lanes, 1, lanes)] * inverse * T.Cast(floats, GA[T.ramp(k * lanes, 1, lanes)])
                )

    return rms_norm_rows


@cache
def add(K: int, lanes: int) -> Any:
    """`x + y`, both `[M, K]`."""

    @T.prim_func(s_tir=True, private=True)
    def add_rows(x: T.handle, y: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        Y = T.match_buffer(y, (M, K), "float32")
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K // lanes):
                O[m, T.ramp(k * lanes, 1, lanes)] = (
                    X[m, T.ramp(k * lanes, 1, lanes)] + Y[m, T.ramp(k * lanes, 1, lanes)]
                )

    return add_rows


@cache
def gated(K: int, lanes: int) -> Any:
    """SwiGLU's middle, silu(x[:, :K]) · x[:, K:] for `x [M, 2K]`, to `[M, K]` (Shazeer 2020, arXiv:2002.05202)."""

    @T.prim_func(s_tir=True, private=True)
    def gated_rows(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, 2 * K), "float32")
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K // lanes):
                O[m, T.ramp(k * lanes, 1, lanes)] = (
                    silu(X[m, T.ramp(k * lanes, 1, lanes)], lanes) * X[m, T.ramp(K + k * lanes, 1, lanes)]
                )

    return gated_rows


@cache
def finish(K: int, what: str, lanes: int, dtype: str) -> Any:
    """`x + bias`, then GELU or `+ residual [M, K]`, as `what` says: "bias", "bias_gelu" or "bias_residual"."""
    floats = f"float32x{lanes}"

    if what == "bias_residual":

        @T.prim_func(s_tir=True, private=True)
        def finish_residual(x: T.handle, bias: T.handle, residual: T.handle, out: T.handle):
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            M = T.int64()
            X = T.match_buffer(x, (M, K), "float32")
            B = T.match_buffer(bias, (K,), dtype)
            R = T.match_buffer(residual, (M, K), "float32")
            O = T.match_buffer(out, (M, K), "float32")
            for m in T.parallel(M):
                for k in T.serial(K // lanes):
                    O[m, T.ramp(k * lanes, 1, lanes)] = (
                        X[m, T.ramp(k * lanes, 1, lanes)]
                        + T.Cast(floats, B[T.ramp(k * lanes, 1, lanes)])
                        + R[m, T.ramp(k * lanes, 1, lanes)]
                    )

        return finish_residual

    @T.prim_func(s_tir=True, private=True)
    def finish_rows(x: T.handle, bias: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        B = T.match_buffer(bias, (K,), dtype)
        O = T.match_buffer(out, (M, K), "float32")
        for m in T.parallel(M):
            for k in T.serial(K // lanes):
                total: T.let = X[m, T.ramp(k * lanes, 1, lanes)] + T.Cast(floats, B[T.ramp(k * lanes, 1, lanes)])
                if what == "bias_gelu":
                    O[m, T.ramp(k * lanes, 1, lanes)] = gelu(total, lanes)
                else:
                    O[m, T.ramp(k * lanes, 1, lanes)] = total

    return finish_rows


@cache
def take_rows(K: int) -> Any:
    """Rows `rows [B]` int32 of `x [M, K]`, as `[B, K]`: only the last token of each prompt needs logits."""

    @T.prim_func(s_tir=True, private=True)
    def take_rows_of(x: T.handle, rows: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M, B = T.int64(), T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        I = T.match_buffer(rows, (B,), "int32")
        O = T.match_buffer(out, (B, K), "float32")
        for b in T.parallel(B):
            for k in T.serial(K):
                O[b, k] = X[T.Cast("int64", I[b]), k]

    return take_rows_of


@cache
def last_row(K: int) -> Any:
    """`x [M, K]` to its last row `[1, K]`: only the last token of a prompt needs logits."""

    @T.prim_func(s_tir=True, private=True)
    def take_last_row(x: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        M = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        O = T.match_buffer(out, (1, K), "float32")
        for k in T.serial(K):
            O[0, k] = X[M - 1, k]

    return take_last_row
