"""The facts every family gives, and how they are read from a `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolchain.contracts.errors import UnsupportedArchitecture


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder-only transformer.

    `parameters` counts a tied head once. `lora_targets` are the names of the linear layers that LoRA adapts
    unless told otherwise. `attention_bias` says whether the attention's products have biases. `rope` holds the inverse
    frequencies `[head_size / 2]` of rotary positions (empty: learned positions). `window` is how many tokens back
    attention sees at most (None: all). `config` is the whole `config.json`, unknown keys included.
    """

    family: str
    vocab_size: int
    hidden_size: int
    inner_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context_size: int
    tied_head: bool
    parameters: int
    lora_targets: tuple[str, ...]
    norm_epsilon: float
    attention_bias: bool = True
    rope: tuple[float, ...] = field(default=(), repr=False)
    window: int | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def query_size(self) -> int:
        """Features of all query heads together."""
        return self.heads * self.head_size

    @property
    def qkv_size(self) -> int:
        """Features of all query, key and value heads together."""
        return (self.heads + 2 * self.kv_heads) * self.head_size


def size(config: Mapping[str, Any], family: str, key: str, default: int | None = None) -> int:
    """A positive whole number of a `config.json`. Raises UnsupportedArchitecture when it is missing or no such number.

    `default` stands for a key that is missing or null.
    """
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        problem = f"lacks '{key}'" if value is None else f"has {key}={value!r}"
        raise UnsupportedArchitecture(
            f"this {family} config.json {problem}", "Use the config.json that belongs to the checkpoint."
        )
    return value


def expect(config: Mapping[str, Any], family: str, key: str, supported: tuple[Any, ...]) -> None:
    """Raise UnsupportedArchitecture unless `key` has one of the values `supported`; a missing key has the first."""
    value = config.get(key, supported[0])
    if value not in supported:
        known = ", ".join(repr(value) for value in supported)
        raise UnsupportedArchitecture(f"{family} with {key}={value!r} is not supported", f"Supported: {known}.")


def heads_of(config: Mapping[str, Any], family: str, hidden: int) -> tuple[int, int, int]:
    """Query heads, key and value heads, and the size of a head, by the keys that newer families share."""
    heads = size(config, family, "num_attention_heads")
    kv_heads = size(config, family, "num_key_value_heads", default=heads)
    head = size(config, family, "head_dim", default=hidden // heads)
    if heads % kv_heads or head % 2:
        raise UnsupportedArchitecture(
            f"{family} with {heads} heads of {head} for {kv_heads} key and value heads is not supported",
            "Heads must be even in size and a multiple of the key and value heads.",
        )
    return heads, kv_heads, head
