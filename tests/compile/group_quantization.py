"""Group quantization restated in NumPy, sharing nothing with what is tested against it but the schemes' names."""

from __future__ import annotations

import numpy as np

from compile.schemes import Scheme


def quantized(weight: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Words and scales of `[N, K]`, every operation in the scheme's float type, one after the other."""
    kind, bits = np.dtype(scheme.dtype).type, scheme.bits
    middle = kind(2 ** (bits - 1) - 1)
    rows, inputs = weight.shape
    with np.errstate(all="ignore"):
        padded = np.zeros((rows, inputs + -inputs % 32), kind)
        padded[:, :inputs] = weight.astype(kind)
        groups = padded.reshape(rows, -1, 32)
        scales = np.abs(groups).max(-1) / middle
        levels = np.rint(groups / scales[..., None] + middle)
    assert scales.dtype == levels.dtype == kind
    levels = np.where(np.isnan(levels), 0, np.clip(levels, 0, 2 * middle)).astype(np.uint64).reshape(rows, -1)
    levels[:, inputs:] = 0
    shifts = np.arange(0, 32, bits, dtype=np.uint64)
    return (levels.reshape(rows, -1, 32 // bits) << shifts).sum(-1).astype(np.uint32), scales


def dequantized(words: np.ndarray, scales: np.ndarray, inputs: int) -> np.ndarray:
    """The weights `[N, inputs]` that words and scales stand for, in float32."""
    bits = words.shape[1] // scales.shape[1]
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    levels = (words[..., None] >> shifts) & np.uint32(2**bits - 1)
    centred = levels.reshape(*scales.shape, 32).astype(np.float32) - np.float32(2 ** (bits - 1) - 1)
    return np.asarray((centred * scales[..., None].astype(np.float32)).reshape(len(words), -1)[:, :inputs])
