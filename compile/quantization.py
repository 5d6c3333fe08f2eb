"""q4f16_1 group quantization in NumPy, to the bit as MLC's converter does it.

Per group of 32 along the input dimension, in float16: scale = max|w| / 7, q = round-half-even(w / scale + 7),
clipped to 0..14. Eight nibbles a uint32, lowest first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUP, PER_WORD = 32, 8
MIDDLE = np.float16(7)


def quantize(weight: NDArray[np.generic]) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
    """`[N, K]` floats to words `[N, ceil(K/32) * 4]` and scales `[N, ceil(K/32)]`.

    The weight is cast to float16 first. Inputs beyond K are zero weights for the scale, and nibbles of zero.
    """
    half = weight.astype(np.float16, copy=False)
    outputs, inputs = half.shape
    groups = -(-inputs // GROUP)
    if inputs % GROUP:
        padded = np.zeros((outputs, groups * GROUP), np.float16)
        padded[:, :inputs] = half
        half = padded
    grouped = half.reshape(outputs, groups, GROUP)
    scale = (np.abs(grouped).max(-1) / MIDDLE).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        levels = np.rint((grouped / scale[..., None]).astype(np.float16) + MIDDLE)
    # A group of zeros gives 0/0: MLC's comparison lets NaN fall to 0, and so do these two.
    levels = np.where(levels > 0, levels, np.float16(0))
    levels = np.where(levels < 14, levels, np.float16(14)).astype(np.uint8)
    levels = levels.reshape(outputs, groups * GROUP)
    levels[:, inputs:] = 0
    # Two nibbles a byte, four little-endian bytes a word.
    pairs = levels.reshape(outputs, -1, 2)
    packed = np.ascontiguousarray(pairs[..., 0] | (pairs[..., 1] << 4))
    return packed.view("<u4").astype(np.uint32, copy=False), scale


def dequantize(words: NDArray[np.uint32], scale: NDArray[np.float16], inputs: int) -> NDArray[np.float32]:
    """The weights `[N, inputs]` that words and scales stand for, (q - 7) · scale in float32."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    levels = ((words[..., None] >> shifts) & np.uint32(15)).reshape(words.shape[0], -1, GROUP)
    weight = (levels.astype(np.float32) - np.float32(7)) * scale[..., None].astype(np.float32)
    return weight.reshape(words.shape[0], -1)[:, :inputs]
