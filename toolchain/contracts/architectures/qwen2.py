"""Qwen2: Qwen2.5-Coder and models tuned from it.

Llama with biases on queries, keys and values. Keys as in transformers' `Qwen2Config`.
"""

from __future__ import annotations

from typing import Any

from toolchain.contracts.architectures.facts import Architecture, expect, heads_of, size
from toolchain.contracts.architectures.rope import inverse_frequencies

MODEL_TYPE = "qwen2"
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read(config: dict[str, Any]) -> Architecture:
    """The facts in a Qwen2 `config.json`. Raises UnsupportedArchitecture for what is missing or not supported."""
    vocab, hidden, inner, layers, positions = (
        size(config, MODEL_TYPE, key)
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    )
    heads, kv_heads, head = heads_of(config, MODEL_TYPE, hidden)
    expect(config, MODEL_TYPE, "hidden_act", ("silu",))
    expect(config, MODEL_TYPE, "use_sliding_window", (False,))
    tied, queries, keys = bool(config.get("tie_word_embeddings", False)), heads * head, kv_heads * head
    block = 2 * hidden * (queries + keys) + queries + 2 * keys + 3 * hidden * inner + 2 * hidden
    return Architecture(
        family=MODEL_TYPE,
        vocab_size=vocab,
        hidden_size=hidden,
        inner_size=inner,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        context_size=positions,
        tied_head=tied,
        parameters=vocab * hidden * (1 if tied else 2) + layers * block + hidden,
        lora_targets=LORA_TARGETS,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope=inverse_frequencies(config, head),
        config=config,
    )
