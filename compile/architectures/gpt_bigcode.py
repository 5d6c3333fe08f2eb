"""GPTBigCode (StarCoder) in Relax: multi-query attention, learned positions, tanh GELU, explicit KV tensors.

Parameter names are Hugging Face's, which are MLC's too. Transformers' `modeling_gpt_bigcode.py` is the reference
for the arithmetic; mlc_llm's own definition uses the erf form of GELU and so differs slightly from StarCoder.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from compile.layers import CachedAttention, FinishedLinear, LayerNorm, Linear, Style, Table, embed, last_row
from toolchain.contracts.architectures.facts import Architecture


class Attention(nn.Module):
    def __init__(self, facts: Architecture, style: Style) -> None:
        self.c_attn = FinishedLinear(style, facts.hidden_size, facts.hidden_size + 2 * facts.head_size, "bias")
        self.c_proj = FinishedLinear(style, facts.hidden_size, facts.hidden_size, "bias_residual")


class FeedForward(nn.Module):
    def __init__(self, facts: Architecture, style: Style) -> None:
        self.c_fc = FinishedLinear(style, facts.hidden_size, facts.inner_size, "bias_gelu")
        self.c_proj = FinishedLinear(style, facts.inner_size, facts.hidden_size, "bias_residual")


class Block(nn.Module):
    def __init__(self, facts: Architecture, style: Style) -> None:
        epsilon = float(facts.config.get("layer_norm_epsilon", 1e-5))
        self.ln_1 = LayerNorm(style, facts.hidden_size, epsilon)
        self.attn = Attention(facts, style)
        self.ln_2 = LayerNorm(style, facts.hidden_size, epsilon)
        self.mlp = FeedForward(facts, style)


class Transformer(nn.Module):
    def __init__(self, facts: Architecture, style: Style) -> None:
        self.wte = Table(style, facts.vocab_size, facts.hidden_size)
        self.wpe = Table(style, facts.context_size, facts.hidden_size)
        self.h = nn.ModuleList([Block(facts, style) for _ in range(facts.layers)])
        self.ln_f = LayerNorm(style, facts.hidden_size, float(facts.config.get("layer_norm_epsilon", 1e-5)))


class Model(nn.Module):
    """`prefill` and `decode` take ids `[M]`, the position of the first, and the cache; they give logits `[1, V]`."""

    def __init__(self, facts: Architecture, style: Style) -> None:
        self.facts, self.style = facts, style
        self.attend = attention(facts, style)
        self.transformer = Transformer(facts, style)
        self.lm_head = Linear(style, facts.hidden_size, facts.vocab_size)

    def _logits(self, ids: Tensor, position: tirx.Var, keys: Tensor, values: Tensor, every_row: bool) -> Tensor:
        body = self.transformer
        x = embed(self.style, self.facts.hidden_size, ids, body.wte, body.wpe, position)
        for layer, block in enumerate(body.h):
            qkv = block.attn.c_attn(block.ln_1(x))
            attended, keys, values = self.attend(qkv, keys, values, layer, position)
            x = block.attn.c_proj(attended, x)
            x = block.mlp.c_proj(block.mlp.c_fc(block.ln_2(x)), x)
        return self.lm_head(body.ln_f(x if every_row else last_row(x)))

    def prefill(self, ids: Tensor, position: tirx.Var, keys: Tensor, values: Tensor) -> Tensor:
        """The logits after the last of M tokens."""
        return self._logits(ids, position, keys, values, every_row=False)

    def decode(self, ids: Tensor, position: tirx.Var, keys: Tensor, values: Tensor) -> Tensor:
        """The logits after one token."""
        return self._logits(ids, position, keys, values, every_row=True)

    def score(self, ids: Tensor, position: tirx.Var, keys: Tensor, values: Tensor) -> Tensor:
        """The logits after each of M tokens, `[M, V]`: for evaluation and for checking a draft."""
        return self._logits(ids, position, keys, values, every_row=True)

    def inputs(self, count: Any) -> dict[str, Any]:
        """The specification of one function's inputs for `count` tokens."""
        keys, values = self.attend.cache_shapes(self.facts.layers, "blocks")
        dtype = self.style.scheme.dtype
        return {
            "ids": nn.spec.Tensor([count], "int32"),
            "position": int,
            "keys": nn.spec.Tensor(keys, dtype),
            "values": nn.spec.Tensor(values, dtype),
            "$": {"param_mode": "packed", "effect_mode": "none"},
        }


def attention(facts: Architecture, style: Style) -> CachedAttention:
    """The shape of its attention, which decides that of the KV cache."""
    return CachedAttention(style, facts.heads, facts.kv_heads, facts.head_size)


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
        "attn.c_attn": (hidden + 2 * facts.head_size, hidden),
        "attn.c_proj": (hidden, hidden),
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


def weight_map(facts: Architecture) -> dict[str, str]:
    """MLC's tensor name to the checkpoint's. A tied checkpoint has no `lm_head`, MLC's format always does."""
    head = "transformer.wte.weight" if facts.tied_head else "lm_head.weight"
    return {name: head if name == "lm_head.weight" else name for name in weight_shapes(facts)}
