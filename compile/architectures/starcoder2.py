"""StarCoder2 in Relax: grouped-query attention in a sliding window, rotary positions, layer norm, tanh GELU.

Parameter names are MLC's: queries, keys and values are one matrix, `wqkv_pack`. Transformers'
`modeling_starcoder2.py` is the reference for the arithmetic.
"""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from compile.architectures.llama import split
from compile.layers import Cache, CausalModel, Layers
from compile.reference import Floats, StoredWeights, attention, gelu
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.architectures.rope import theta

TEMPLATE = "LM"


class Attention(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.wqkv_pack = build.linear(facts.hidden_size, facts.qkv_size, "bias")
        self.o_proj = build.linear(facts.query_size, facts.hidden_size, "bias_residual")


class FeedForward(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.c_fc = build.linear(facts.hidden_size, facts.inner_size, "bias_gelu")
        self.c_proj = build.linear(facts.inner_size, facts.hidden_size, "bias_residual")


class Block(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.facts, self.build = facts, build
        self.input_layernorm = build.layer_norm(facts.hidden_size, facts.norm_epsilon)
        self.self_attn = Attention(facts, build)
        self.post_attention_layernorm = build.layer_norm(facts.hidden_size, facts.norm_epsilon)
        self.mlp = FeedForward(facts, build)

    def forward(self, x: Tensor, cache: Cache, layer: int, turns: Any) -> Tensor:
        qkv = self.build.rotate(self.facts, self.self_attn.wqkv_pack(self.input_layernorm(x)), turns)
        x = self.self_attn.o_proj(cache.attend(qkv, layer), x)
        return self.mlp.c_proj(self.mlp.c_fc(self.post_attention_layernorm(x)), x)


class Body(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.embed_tokens = build.table(facts.vocab_size, facts.hidden_size)
        self.layers = nn.ModuleList([Block(facts, build) for _ in range(facts.layers)])
        self.norm = build.layer_norm(facts.hidden_size, facts.norm_epsilon)


class Model(CausalModel):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.facts, self.build = facts, build
        self.model = Body(facts, build)
        self.lm_head = build.head(facts.hidden_size, facts.vocab_size)

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        x, turns = self.model.embed_tokens.rows(ids), self.build.turns(self.facts, cache.positions)
        for layer, block in enumerate(self.model.layers):
            x = block(x, cache, layer, turns)
        return x

    def logits(self, x: Tensor) -> Tensor:
        return self.lm_head(self.model.norm(x))


def weight_shapes(facts: Architecture) -> dict[str, tuple[int, ...]]:
    """MLC's name and the shape of every tensor, unquantized."""
    hidden, inner = facts.hidden_size, facts.inner_size
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (facts.vocab_size, hidden),
        "model.embed_tokens.weight": (facts.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "model.norm.bias": (hidden,),
    }
    linear = {
        "self_attn.wqkv_pack": (facts.qkv_size, hidden),
        "self_attn.o_proj": (hidden, facts.query_size),
        "mlp.c_fc": (inner, hidden),
        "mlp.c_proj": (hidden, inner),
    }
    for layer in range(facts.layers):
        at = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (hidden,)
        for part, shape in linear.items():
            shapes[f"{at}.{part}.weight"] = shape
            shapes[f"{at}.{part}.bias"] = shape[:1]
    return shapes


def weight_map(facts: Architecture) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors for each of MLC's. A tied checkpoint has no `lm_head`, MLC's format always does."""
    named = {name: split(name, "wqkv_pack") for name in weight_shapes(facts)}
    return named | ({"lm_head.weight": ("model.embed_tokens.weight",)} if facts.tied_head else {})


def reference(facts: Architecture, weights: StoredWeights, ids: list[int], rows: int) -> Floats:
    """The logits `[rows, V]` after each of the last `rows` ids, in NumPy."""
    x = weights.rows("model.embed_tokens", ids)
    for layer in range(facts.layers):
        at = f"model.layers.{layer}"
        normed = weights.layer_norm(f"{at}.input_layernorm", x, facts.norm_epsilon)
        attended = attention(facts, weights.linear(f"{at}.self_attn.wqkv_pack", normed))
        x = x + weights.linear(f"{at}.self_attn.o_proj", attended)
        normed = weights.layer_norm(f"{at}.post_attention_layernorm", x, facts.norm_epsilon)
        x = x + weights.linear(f"{at}.mlp.c_proj", gelu(weights.linear(f"{at}.mlp.c_fc", normed)))
    return weights.linear("lm_head", weights.layer_norm("model.norm", x[-rows:], facts.norm_epsilon))


def model_config(facts: Architecture) -> dict[str, Any]:
    config = facts.config
    return {
        "hidden_size": facts.hidden_size,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": facts.heads,
        "num_key_value_heads": facts.kv_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": facts.norm_epsilon,
        "intermediate_size": facts.inner_size,
        "rope_theta": theta(facts.config),
        "use_bias": True,
        "use_cache": True,
        "bos_token_id": config.get("bos_token_id", 0),
        "eos_token_id": config.get("eos_token_id", 0),
        "head_dim": facts.head_size,
    }
