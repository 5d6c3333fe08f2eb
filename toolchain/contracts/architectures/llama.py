"""Llama: DeciCoder-1b, SmolLM2 and Llama-shaped code models.

Grouped-query attention, rotary positions, RMS norm, SwiGLU. Keys as in transformers' `LlamaConfig`. DeciCoder-1b's own
config says `model_type: llama`; the remote code that it names is not needed and never run.
"""

from __future__ import annotations

from typing import Any

from toolchain.contracts.architectures.facts import Architecture, expect, heads_of, size
from toolchain.contracts.architectures.rope import inverse_frequencies

MODEL_TYPE = "llama"
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read(config: dict[str, Any]) -> Architecture:
    """The facts in a Llama `config.json`. Raises UnsupportedArchitecture for what is missing or not supported."""
    vocab, hidden, inner, layers, positions = (
        size(config, MODEL_TYPE, key)
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    )
    heads, kv_heads, head = heads_of(config, MODEL_TYPE, hidden)
    expect(config, MODEL_TYPE, "hidden_act", ("silu",))
    expect(config, MODEL_TYPE, "mlp_bias", (False,))
    tied, queries, keys = bool(config.get("tie_word_embeddings", False)), heads * head, kv_heads * head
    biased = bool(config.get("attention_bias"))
    biases = queries + 2 * keys + hidden if biased else 0
    block = 2 * hidden * (queries + keys) + biases + 3 * hidden * inner + 2 * hidden
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
        attention_bias=biased,
        rope=inverse_frequencies(config, head),
        config=config,
    )
