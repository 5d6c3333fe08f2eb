"""GPTBigCode (StarCoder) in Relax: multi-query attention, learned positions, tanh GELU.

Parameter names are Hugging Face's, which are MLC's too. Transformers' `modeling_gpt_bigcode.py` is the reference
for the arithmetic; mlc_llm's own definition uses the erf form of GELU and so differs slightly from StarCoder.
"""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from compile.layers import Cache, CausalModel, Layers
from compile.reference import Floats, StoredWeights, attention, gelu
from toolchain.contracts.architectures.facts import Architecture

TEMPLATE = "gpt_bigcode"


class Attention(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.c_attn = build.linear(facts.hidden_size, facts.qkv_size, "bias")
        self.c_proj = build.linear(facts.query_size, facts.hidden_size, "bias_residual")


class FeedForward(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.c_fc = build.linear(facts.hidden_size, facts.inner_size, "bias_gelu")
        self.c_proj = build.linear(facts.inner_size, facts.hidden_size, "bias_residual")


class Block(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.ln_1 = build.layer_norm(facts.hidden_size, facts.norm_epsilon)
        self.attn = Attention(facts, build)
        self.ln_2 = build.layer_norm(facts.hidden_size, facts.norm_epsilon)
        self.mlp = FeedForward(facts, build)

    def forward(self, x: Tensor, cache: Cache, layer: int) -> Tensor:
        x = self.attn.c_proj(cache.attend(self.attn.c_attn(self.ln_1(x)), layer), x)
        return self.mlp.c_proj(self.mlp.c_fc(self.ln_2(x)), x)


class Transformer(nn.Module):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.wte = build.table(facts.vocab_size, facts.hidden_size)
        self.wpe = build.table(facts.context_size, facts.hidden_size)
        self.h = nn.ModuleList([Block(facts, build) for _ in range(facts.layers)])
        self.ln_f = build.layer_norm(facts.hidden_size, facts.norm_epsilon)


class Model(CausalModel):
    def __init__(self, facts: Architecture, build: Layers) -> None:
        self.transformer = Transformer(facts, build)
        self.lm_head = build.head(facts.hidden_size, facts.vocab_size)

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        x = self.transformer.wpe.rows(cache.positions, self.transformer.wte.rows(ids))
        for layer, block in enumerate(self.transformer.h):
            x = block(x, cache, layer)
        return x

    def logits(self, x: Tensor) -> Tensor:
        return self.lm_head(self.transformer.ln_f(x))


def weight_shapes(facts: Architecture) -> dict[str, tuple[int, ...]]:
    """MLC's name and the shape of every tensor, unquantized."""
    hidden, inner, vocab = facts.hidden_size, facts.inner_size, facts.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (vocab, hidden),
        "transformer.wte.weight": (vocab, hidden),
        "transformer.wpe.weight": (facts.context_size, hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }
    linear = {
        "attn.c_attn": (facts.qkv_size, hidden),
        "attn.c_proj": (hidden, facts.query_size),
        "mlp.c_fc": (inner, hidden),
        "mlp.c_proj": (hidden, inner),
    }
    for layer in range(facts.layers):
        for norm in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{layer}.{norm}.weight"] = shapes[f"transformer.h.{layer}.{norm}.bias"] = (hidden,)
        for part, shape in linear.items():
            shapes[f"transformer.h.{layer}.{part}.weight"] = shape
            shapes[f"transformer.h.{layer}.{part}.bias"] = shape[:1]
    return shapes


def weight_map(facts: Architecture) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensor for each of MLC's. A tied checkpoint has no `lm_head`, MLC's format always does."""
    head = "transformer.wte.weight" if facts.tied_head else "lm_head.weight"
    return {name: (head if name == "lm_head.weight" else name,) for name in weight_shapes(facts)}


def reference(facts: Architecture, weights: StoredWeights, ids: list[int], rows: int) -> Floats:
    """The logits `[rows, V]` after each of the last `rows` ids, in NumPy."""
    x = weights.rows("transformer.wte", ids) + weights.rows("transformer.wpe", slice(0, len(ids)))
    for layer in range(facts.layers):
        at = f"transformer.h.{layer}"
        qkv = weights.linear(f"{at}.attn.c_attn", weights.layer_norm(f"{at}.ln_1", x, facts.norm_epsilon))
        x = x + weights.linear(f"{at}.attn.c_proj", attention(facts, qkv))
        inner = weights.linear(f"{at}.mlp.c_fc", weights.layer_norm(f"{at}.ln_2", x, facts.norm_epsilon))
        x = x + weights.linear(f"{at}.mlp.c_proj", gelu(inner))
    return weights.linear("lm_head", weights.layer_norm("transformer.ln_f", x[-rows:], facts.norm_epsilon))


def model_config(facts: Architecture) -> dict[str, Any]:
    return {
        "n_embd": facts.hidden_size,
        "n_inner": facts.inner_size,
        "n_head": facts.heads,
        "n_layer": facts.layers,
        "n_positions": facts.context_size,
        "layer_norm_epsilon": facts.norm_epsilon,
    }
