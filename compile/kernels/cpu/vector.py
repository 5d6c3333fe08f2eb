"""Vector arithmetic shared by the kernels: exp, tanh GELU and SiLU on `lanes` floats, written as TIR expressions."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def splat(value: float, lanes: int) -> Any:
    """A float32 constant in every lane."""
    return T.Broadcast(T.float32(value), lanes)


def reduce_add(vector: Any) -> Any:
    """The sum of the lanes of a float32 vector."""
    return T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(0), vector)


def reduce_max(vector: Any) -> Any:
    """The greatest lane of a float32 vector."""
    return T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fmax", vector)


def exp(x: Any, lanes: int) -> Any:
    """e to the power of x, within about 2 ulp: the Cephes library's `expf` (range reduction by ln 2, polynomial)."""
    x = T.min(T.max(x, splat(-87.0, lanes)), splat(88.0, lanes))
    n = T.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.rint", x * splat(1.44269504088896341, lanes))
    r = x - n * splat(LN2_HIGH, lanes) - n * splat(LN2_LOW, lanes)
    p = splat(EXP_POLYNOMIAL[0], lanes)
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = p * r + splat(coefficient, lanes)
    p = p * r * r + r + splat(1.0, lanes)
    exponent = (T.Cast(f"int32x{lanes}", n) + T.Broadcast(T.int32(127), lanes)) << T.Broadcast(T.int32(23), lanes)
    return p * T.reinterpret(exponent, dtype=f"float32x{lanes}")


def gelu(x: Any, lanes: int) -> Any:
    """GELU in its tanh form, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), as x * sigmoid(2u)."""
    twice_u = x * (splat(1.5957691216057308, lanes) + splat(0.07135481282638, lanes) * x * x)
    return x / (splat(1.0, lanes) + exp(splat(0.0, lanes) - twice_u, lanes))


def silu(x: Any, lanes: int) -> Any:
    """SiLU, x * sigmoid(x)."""
    return x / (splat(1.0, lanes) + exp(splat(0.0, lanes) - x, lanes))
