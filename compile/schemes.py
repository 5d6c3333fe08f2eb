"""Quantization schemes by MLC's names: how the weights of linear layers and embeddings are stored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.errors import SettingsError

GROUP = 32
"""Neighbouring weights of a row that share a scale."""


@dataclass(frozen=True)
class Scheme:
    """`bits` of a quantized weight, 4 or 8 (0: not quantized); scales and what is not quantized have `dtype`.

    A weight is (number - middle) · scale, its number one of `bits` in a word of 32. The KV cache has the same `dtype`,
    and so have activations on GPUs; on processors those are float32.
    """

    name: str
    bits: int
    dtype: Literal["float16", "float32"]

    @property
    def quantized(self) -> bool:
        return self.bits > 0

    @property
    def per_word(self) -> int:
        """Numbers in a uint32 word, the first in its lowest bits."""
        return 32 // self.bits

    @property
    def middle(self) -> int:
        """The number that stands for zero; the greatest is twice this."""
        return (1 << (self.bits - 1)) - 1

    def stored_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of words and scales for a weight `[N, K]`: `[N, ceil(K/32) · bits]` and `[N, ceil(K/32)]`."""
        outputs, inputs = shape
        groups = -(-inputs // GROUP)
        return (outputs, groups * self.bits), (outputs, groups)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("q4f16_1", 4, "float16"),
        Scheme("q4f32_1", 4, "float32"),
        Scheme("q8f16_1", 8, "float16"),
        Scheme("q8f32_1", 8, "float32"),
        Scheme("q0f16", 0, "float16"),
        Scheme("q0f32", 0, "float32"),
    )
}


def parse_scheme(name: str) -> Scheme:
    """The scheme called `name`. Raises SettingsError with the names that exist."""
    if name in SCHEMES:
        return SCHEMES[name]
    close = difflib.get_close_matches(name, SCHEMES, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise SettingsError(
        f"unknown quantization '{name}'", f"Use --quantization with one of: {', '.join(SCHEMES)}.{hint}"
    )
