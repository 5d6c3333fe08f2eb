"""GPTBigCode: StarCoder, StarCoderBase, StarCoderPlus, OctoCoder and models tuned from them.

GPT-2 with multi-query attention (one key and value head), learned positions, biases everywhere and tanh GELU.
Keys as in transformers' `GPTBigCodeConfig`.
"""

from __future__ import annotations

from typing import Any

from toolchain.contracts.architectures.facts import Architecture, expect, size
from toolchain.contracts.errors import UnsupportedArchitecture

MODEL_TYPE = "gpt_bigcode"
LORA_TARGETS = ("c_proj", "c_attn", "q_attn", "c_fc")


def read(config: dict[str, Any]) -> Architecture:
    """The facts in a GPTBigCode `config.json`. Raises UnsupportedArchitecture for variants that no StarCoder uses."""
    vocab, hidden, layers, heads, positions = (
        size(config, MODEL_TYPE, key) for key in ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")
    )
    inner = size(config, MODEL_TYPE, "n_inner", default=4 * hidden)
    expect(config, MODEL_TYPE, "multi_query", (True,))
    expect(config, MODEL_TYPE, "activation_function", ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"))
    expect(config, MODEL_TYPE, "scale_attn_weights", (True,))
    if hidden % heads:
        raise UnsupportedArchitecture(f"{MODEL_TYPE} with n_embd={hidden} not a multiple of n_head={heads}")
    head = hidden // heads
    tied = bool(config.get("tie_word_embeddings", True))
    attention = hidden * (hidden + 2 * head) + hidden + 2 * head + hidden * hidden + hidden
    feed_forward = 2 * hidden * inner + inner + hidden
    norms = 4 * hidden
    parameters = (vocab + positions) * hidden + layers * (attention + feed_forward + norms) + 2 * hidden
    return Architecture(
        family=MODEL_TYPE,
        vocab_size=vocab,
        hidden_size=hidden,
        inner_size=inner,
        layers=layers,
        heads=heads,
        kv_heads=1,
        head_size=head,
        context_size=positions,
        tied_head=tied,
        parameters=parameters if tied else parameters + vocab * hidden,
        lora_targets=LORA_TARGETS,
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        config=config,
    )
