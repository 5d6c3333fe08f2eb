"""A model's arithmetic in NumPy, from quantized weights: what compiled libraries are held to.

Written for being obviously right, and sharing nothing with the kernels: dequantize, multiply, in float32. Families
put these together in their `reference(facts, weights, ids, rows)`, the logits after each of the last `rows` ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.schemes import Scheme
from toolchain.contracts import tensor_cache
from toolchain.contracts.architectures.facts import Architecture

Floats = NDArray[Any]
BLOCK_WEIGHTS = 1 << 18  # a megabyte of float32, which stays in the processor's cache


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a model in MLC's format, read and dequantized when they are asked for."""

    stored: dict[str, tensor_cache.Stored]
    scheme: Scheme

    def vector(self, name: str) -> Floats:
        """A tensor that is never quantized: a norm's weight or a bias."""
        return self._load(name).astype(np.float32)

    def rows(self, layer: str, ids: Any) -> Floats:
        """Rows of the matrix of `layer`, by number or slice: `[len(ids), K]`."""
        if not self.scheme.quantized:
            return self._load(f"{layer}.weight")[ids].astype(np.float32)
        packed, scales = self._load(f"{layer}.q_weight")[ids].view(np.uint8), self._load(f"{layer}.q_scale")[ids]
        numbers = packed if self.scheme.bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
        grouped = numbers.reshape(*scales.shape, -1).astype(np.float32)
        grouped -= np.float32(127 if self.scheme.bits == 8 else 7)
        grouped *= scales[..., None].astype(np.float32)
        return grouped.reshape(len(packed), -1)

    def linear(self, layer: str, x: Floats) -> Floats:
        """`x [M, K]` times the transposed matrix of `layer`, and its bias if it has one: `[M, N]`.

        Some rows of the matrix at a time, so that memory stays small whatever the model.
        """
        matrix = f"{layer}.q_weight" if self.scheme.quantized else f"{layer}.weight"
        outputs = self.stored[matrix].shape[0]
        rows = max(1, BLOCK_WEIGHTS // x.shape[1])
        blocks = (self.rows(layer, slice(at, at + rows)) for at in range(0, outputs, rows))
        y = np.concatenate([x @ block.T for block in blocks], axis=1)
        return y + self.vector(f"{layer}.bias") if f"{layer}.bias" in self.stored else y

    def layer_norm(self, layer: str, x: Floats, epsilon: float) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return normed * self.vector(f"{layer}.weight") + self.vector(f"{layer}.bias")

    def rms_norm(self, layer: str, x: Floats, epsilon: float) -> Floats:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * self.vector(f"{layer}.weight")

    def _load(self, name: str) -> NDArray[Any]:
        place = self.stored[name]
        return np.memmap(place.file, place.dtype, "r", place.offset, place.shape)


def open_weights(params: Path, scheme: Scheme) -> StoredWeights:
    """The weights in the folder `params`. Raises ArtifactError as `tensor_cache.read` does."""
    return StoredWeights(tensor_cache.read(params), scheme)


def attention(facts: Architecture, qkv: Floats) -> Floats:
    """Causal attention within the family's window over `qkv [T, (H + 2 KV) D]`, rotated first if it rotates."""
    count, size, group = len(qkv), facts.head_size, facts.heads // facts.kv_heads
    heads = qkv.reshape(count, -1, size)
    queries, keys, values = np.split(heads, [facts.heads, facts.heads + facts.kv_heads], axis=1)
    if facts.rope:
        queries, keys = _rotate(facts, queries), _rotate(facts, keys)
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(np.float32(size))
    back = np.arange(count)[:, None] - np.arange(count)
    scores[:, (back < 0) | (back >= (facts.window or count))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, values).reshape(count, -1)


def _rotate(facts: Architecture, heads: Floats) -> Floats:
    """`heads [T, H, D]` at positions 0 to T - 1: each pair (d, d + D/2) as a complex number, turned."""
    angles = np.arange(len(heads))[:, None] * np.asarray(facts.rope)
    half = facts.head_size // 2
    turned = (heads[..., :half] + 1j * heads[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1).astype(np.float32)


def gelu(x: Floats) -> Floats:
    """GELU in its tanh form."""
    return (
        np.float32(0.5) * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(np.float32) * (x + np.float32(0.044715) * x**3)))
    )


def gated(x: Floats) -> Floats:
    """silu(gate) · up of `[M, 2K]`."""
    gate, up = np.split(x, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def logits(facts: Architecture, weights: StoredWeights, ids: Sequence[int], rows: int) -> Floats:
    """The family's reference: the logits `[rows, V]` after each of the last `rows` of `ids`."""
    from compile.architectures import FAMILIES

    found: Floats = FAMILIES[facts.family].reference(facts, weights, list(ids), rows)
    return found
