"""Arithmetic shared by the kernels: four numbers at a time, GELU and SiLU."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

# e to this is so large that x / (1 + e^80) is zero, and still far from infinity, which Metal's fast arithmetic does
# not promise to handle.
LARGEST_EXPONENT = 80.0


def splat(value: Any) -> Any:
    """A number in each of four lanes."""
    return T.Broadcast(value, 4)


def four(index: Any) -> Any:
    """Four neighbours from `index` on."""
    return T.ramp(index, 1, 4)


def times_sigmoid(x: Any, slope: Any) -> Any:
    """x · sigmoid(slope)."""
    return x / (T.float32(1) + T.exp(T.min(T.float32(0) - slope, T.float32(LARGEST_EXPONENT))))


def silu(x: Any) -> Any:
    """SiLU, x · sigmoid(x)."""
    return times_sigmoid(x, x)


def gelu(x: Any) -> Any:
    """GELU in its tanh form, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), as x · sigmoid(2u)."""
    return times_sigmoid(x, x * (T.float32(1.5957691216057308) + T.float32(0.07135481282638) * x * x))
