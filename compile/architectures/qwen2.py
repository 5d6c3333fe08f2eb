"""Qwen2 (Qwen2.5-Coder) in Relax: Llama with biases on queries, keys and values, under MLC's names for Qwen2.

Transformers' `modeling_qwen2.py` is the reference for the arithmetic.
"""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from compile.architectures import llama
from compile.layers import Layers
from compile.reference import Floats, StoredWeights
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.architectures.rope import theta

TEMPLATE = "LM"


class Attention(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.c_attn = build.linear(facts.hidden_size, facts.qkv_size, "bias")
        self.o_proj = build.linear(facts.query_size, facts.hidden_size, "residual")

    def qkv(self, x: Tensor) -> Tensor:
        return self.c_attn(x)


class Model(llama.Model):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        super().__init__(facts, build, Attention)


def weight_shapes(facts: Architecture) -> dict[str, tuple[int, ...]]:
    """MLC's name and the shape of every tensor, unquantized. A tied model has no `lm_head` in MLC's format."""
    shapes = {name.replace("qkv_proj", "c_attn"): shape for name, shape in llama.weight_shapes(facts).items()}
    return {name: shape for name, shape in shapes.items() if not name.endswith("o_proj.bias")}


def weight_map(facts: Architecture) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors for each of MLC's."""
    return {name: llama.split(name, "c_attn") for name in weight_shapes(facts)}


def reference(facts: Architecture, weights: StoredWeights, ids: list[int], rows: int) -> Floats:
    """The logits `[rows, V]` after each of the last `rows` ids, in NumPy."""
    return llama.reference(facts, weights, ids, rows, "c_attn")


def model_config(facts: Architecture) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.inner_size,
        "num_attention_heads": facts.heads,
        "num_hidden_layers": facts.layers,
        "num_key_value_heads": facts.kv_heads,
        "rms_norm_eps": facts.norm_epsilon,
        "rope_theta": theta(facts.config),
        "tie_word_embeddings": facts.tied_head,
        "head_dim": facts.head_size,
    }
