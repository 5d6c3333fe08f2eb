"""StarCoder2: grouped-query attention within a sliding window, rotary positions, layer norm, biases and tanh GELU.

Keys as in transformers' `Starcoder2Config`.
"""

from __future__ import annotations

from typing import Any

from toolchain.contracts.architectures.facts import Architecture, expect, heads_of, size
from toolchain.contracts.architectures.rope import inverse_frequencies

MODEL_TYPE = "starcoder2"
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")


def read(config: dict[str, Any]) -> Architecture:
    """The facts in a StarCoder2 `config.json`. Raises UnsupportedArchitecture for what is missing or not supported."""
    vocab, hidden, inner, layers, positions = (
        size(config, MODEL_TYPE, key)
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    )
    heads, kv_heads, head = heads_of(config, MODEL_TYPE, hidden)
    expect(config, MODEL_TYPE, "hidden_act", ("gelu_pytorch_tanh",))
    expect(config, MODEL_TYPE, "use_bias", (True,))
    window = size(config, MODEL_TYPE, "sliding_window") if config.get("sliding_window") is not None else None
    tied, queries, keys = bool(config.get("tie_word_embeddings", True)), heads * head, kv_heads * head
    attention = 2 * hidden * (queries + keys) + queries + 2 * keys + hidden
    feed_forward = 2 * hidden * inner + inner + hidden
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
        parameters=vocab * hidden * (1 if tied else 2) + layers * (attention + feed_forward + 4 * hidden) + 2 * hidden,
        lora_targets=LORA_TARGETS,
        norm_epsilon=float(config.get("norm_epsilon", 1e-5)),
        rope=inverse_frequencies(config, head),
        window=window if window is not None and window < positions else None,
        config=config,
    )
