"""Quantization schemes by MLC's names: how the weights of linear layers and embeddings are stored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.errors import SettingsError


@dataclass(frozen=True)
class Scheme:
    """`bits` of a quantized weight (None: not quantized), `group` weights share a scale, the rest is `dtype`.

    The KV cache has the same `dtype`, and so have activations on GPUs; on processors those are float32.
    """

    name: str
    bits: int | None
    group: int | None
    dtype: Literal["float16", "float32"]

    @property
    def quantized(self) -> bool:
        return self.bits is not None


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("q4f16_1", 4, 32, "float16"),
        Scheme("q4f32_1", 4, 32, "float32"),
        Scheme("q8f16_1", 8, 32, "float16"),
        Scheme("q8f32_1", 8, 32, "float32"),
        Scheme("q0f16", None, None, "float16"),
        Scheme("q0f32", None, None, "float32"),
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
