"""Llama (DeciCoder, SmolLM2) in Relax: grouped-query attention, rotary positions, RMS norm, SwiGLU.

Parameter names are MLC's: queries, keys and values are one matrix, gate and up another. Transformers'
`modeling_llama.py` is the reference for the arithmetic.
"""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from compile.layers import Cache, CausalModel, Layers
from compile.reference import Floats, StoredWeights, attention, gated
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.architectures.rope import kind, settings, theta

TEMPLATE = "LM"


class Attention(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.qkv_proj = build.linear(facts.hidden_size, facts.qkv_size, "bias" if facts.attention_bias else "")
        self.o_proj = build.linear(
            facts.query_size, facts.hidden_size, "bias_residual" if facts.attention_bias else "residual"
        )

    def qkv(self, x: Tensor) -> Tensor:
        return self.qkv_proj(x)


class FeedForward(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.gate_up_proj = build.linear(facts.hidden_size, 2 * facts.inner_size)
        self.down_proj = build.linear(facts.inner_size, facts.hidden_size, "residual")


class Block(nn.Module):
    def __init__(self, facts: Architecture, build: Layers, attention_class: type[nn.Module]) -> None:
        self.facts, self.build = facts, build
        self.input_layernorm = build.rms_norm(facts.hidden_size, facts.norm_epsilon)
        self.self_attn = attention_class(facts, build)
        self.post_attention_layernorm = build.rms_norm(facts.hidden_size, facts.norm_epsilon)
        self.mlp = FeedForward(facts, build)

    def forward(self, x: Tensor, cache: Cache, layer: int, turns: Any) -> Tensor:
        qkv = self.build.rotate(self.facts, self.self_attn.qkv(self.input_layernorm(x)), turns)
        x = self.self_attn.o_proj(cache.attend(qkv, layer), x)
        inner = self.build.gated(self.mlp.gate_up_proj(self.post_attention_layernorm(x)))
        return self.mlp.down_proj(inner, x)


class Body(nn.Module):
    def __init__(self, facts: Architecture, build: Layers, attention_class: type[nn.Module]) -> None:
        self.embed_tokens = build.table(facts.vocab_size, facts.hidden_size)
        self.layers = nn.ModuleList([Block(facts, build, attention_class) for _ in range(facts.layers)])
        self.norm = build.rms_norm(facts.hidden_size, facts.norm_epsilon)


class Model(CausalModel):
    def __init__(self, facts: Architecture, build: Layers, attention_class: type[nn.Module] = Attention) -> None:
        """`attention_class` may be another family's, whose matrices bear other names."""
        self.facts, self.build = facts, build
        self.model = Body(facts, build, attention_class)
        if not facts.tied_head:
            self.lm_head = build.head(facts.hidden_size, facts.vocab_size)

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        x, turns = self.model.embed_tokens.rows(ids), self.build.turns(self.facts, cache.positions)
        for layer, block in enumerate(self.model.layers):
            x = block(x, cache, layer, turns)
        return x

    def logits(self, x: Tensor) -> Tensor:
        x = self.model.norm(x)
        return self.model.embed_tokens.logits(x) if self.facts.tied_head else self.lm_head(x)


def weight_shapes(facts: Architecture) -> dict[str, tuple[int, ...]]:
    """MLC's name and the shape of every tensor, unquantized. A tied model has no `lm_head` in MLC's format."""
    hidden, inner = facts.hidden_size, facts.inner_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (facts.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not facts.tied_head:
        shapes["lm_head.weight"] = (facts.vocab_size, hidden)
    for layer in range(facts.layers):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{at}.self_attn.qkv_proj.weight"] = (facts.qkv_size, hidden)
        shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, facts.query_size)
        shapes[f"{at}.mlp.gate_up_proj.weight"] = (2 * inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
        if facts.attention_bias:
            shapes[f"{at}.self_attn.qkv_proj.bias"] = (facts.qkv_size,)
            shapes[f"{at}.self_attn.o_proj.bias"] = (hidden,)
    return shapes


def weight_map(facts: Architecture) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors for each of MLC's."""
    return {name: split(name, "qkv_proj") for name in weight_shapes(facts)}


def split(name: str, qkv: str) -> tuple[str, ...]:
    """The tensors that MLC's `name` is put together from; `qkv` is what it calls queries, keys and values."""
    if f".{qkv}." in name:
        return tuple(name.replace(qkv, part) for part in ("q_proj", "k_proj", "v_proj"))
    if ".gate_up_proj." in name:
        return tuple(name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj"))
    return (name,)


def reference(
    facts: Architecture, weights: StoredWeights, ids: list[int], rows: int, qkv_proj: str = "qkv_proj"
) -> Floats:
    """The logits `[rows, V]` after each of the last `rows` ids, in NumPy; `qkv_proj` is MLC's name of that matrix."""
    x = weights.rows("model.embed_tokens", ids)
    for layer in range(facts.layers):
        at = f"model.layers.{layer}"
        normed = weights.rms_norm(f"{at}.input_layernorm", x, facts.norm_epsilon)
        attended = attention(facts, weights.linear(f"{at}.self_attn.{qkv_proj}", normed))
        x = x + weights.linear(f"{at}.self_attn.o_proj", attended)
        normed = weights.rms_norm(f"{at}.post_attention_layernorm", x, facts.norm_epsilon)
        x = x + weights.linear(f"{at}.mlp.down_proj", gated(weights.linear(f"{at}.mlp.gate_up_proj", normed)))
    head = "model.embed_tokens" if facts.tied_head else "lm_head"
    return weights.linear(head, weights.rms_norm("model.norm", x[-rows:], facts.norm_epsilon))


def model_config(facts: Architecture) -> dict[str, Any]:
    rope = settings(facts.config)
    return {
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.inner_size,
        "num_attention_heads": facts.heads,
        "num_hidden_layers": facts.layers,
        "rms_norm_eps": facts.norm_epsilon,
        "tie_word_embeddings": facts.tied_head,
        "position_embedding_base": theta(facts.config),
        "rope_scaling": rope if kind(rope) != "default" else None,
        "num_key_value_heads": facts.kv_heads,
        "head_dim": facts.head_size,
    }
