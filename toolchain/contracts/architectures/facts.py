"""The facts every family gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder-only transformer.

    `parameters` counts a tied head once. `lora_targets` are the names of the linear layers that LoRA adapts
    unless told otherwise. `config` is the whole `config.json`, unknown keys included.
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
    config: dict[str, Any] = field(repr=False, compare=False)
