"""Random weights, and what the kernels should make of them, in NumPy and float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compile.schemes import Scheme

# What storing a result rounds away, relative to it.
ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}


@dataclass(frozen=True)
class Weights:
    """A matrix as a kernel takes it, and its values."""

    stored: list[np.ndarray]
    values: np.ndarray


def weights(scheme: Scheme, rows: int, columns: int, draw: np.random.Generator) -> Weights:
    if not scheme.quantized:
        matrix = draw.standard_normal((rows, columns)).astype(scheme.dtype)
        return Weights([matrix], matrix.astype(np.float64))
    numbers = draw.integers(0, 2**scheme.bits, (rows, columns), dtype=np.uint32)
    scales = draw.uniform(0.01, 0.1, (rows, columns // 32)).astype(scheme.dtype)
    per_word = 32 // scheme.bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(scheme.bits)
    words = np.bitwise_or.reduce(numbers.reshape(rows, -1, per_word) << shifts, axis=-1)
    values = (numbers - float(2 ** (scheme.bits - 1) - 1)) * np.repeat(scales.astype(np.float64), 32, axis=1)
    return Weights([words, scales], values)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def finished(x: np.ndarray, finish: str, extras: dict[str, np.ndarray]) -> np.ndarray:
    for name, array in extras.items():
        if name == "bias":
            x = x + array.astype(np.float64)
    if "gelu" in finish:
        x = gelu(x)
    if "residual" in extras:
        x = x + extras["residual"].astype(np.float64)
    return x


def extras(finish: str, rows: int, columns: int, dtype: str, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The bias and the residual that a finish takes, in the order of the kernels' parameters."""
    shapes = {"bias": (columns,), "residual": (rows, columns)}
    return {name: draw.standard_normal(shape).astype(dtype) for name, shape in shapes.items() if name in finish}


def blank(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An output that is NaN wherever no kernel writes it."""
    return np.full(shape, np.nan, dtype)
