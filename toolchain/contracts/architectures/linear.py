"""The linear layers of a model: by which names they are adapted, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures.facts import Architecture


@dataclass(frozen=True)
class Linear:
    """A linear layer; `shares` says that its input is also kept as another layer's output."""

    name: str
    inputs: int
    outputs: int
    shares: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def full_rank(self) -> int:
        """The highest rank that its matrix, or a change of it, can have."""
        return min(self.inputs, self.outputs)


def of_block(model: Architecture) -> tuple[Linear, ...]:
    """The linear layers of one block, by the names that transformers gives them."""
    hidden, inner, queries, keys = (
        model.hidden_size,
        model.inner_size,
        model.query_size,
        model.kv_heads * model.head_size,
    )
    if model.family == "gpt_bigcode":
        attention: tuple[Linear, ...] = (
            Linear("c_attn", hidden, model.qkv_size),
            Linear("c_proj", queries, hidden, shares=True),
        )
    else:
        attention = (
            Linear("q_proj", hidden, queries),
            Linear("k_proj", hidden, keys),
            Linear("v_proj", hidden, keys),
            Linear("o_proj", queries, hidden, shares=True),
        )
    if gated(model):
        names = (
            Linear("gate_proj", hidden, inner),
            Linear("up_proj", hidden, inner),
            Linear("down_proj", inner, hidden),
        )
        return (*attention, *names)
    return (*attention, Linear("c_fc", hidden, inner), Linear("c_proj", inner, hidden))


def adaptable(model: Architecture) -> tuple[Linear, ...]:
    """The layers that an adapter may change: those of one block, and a head of its own."""
    return (*of_block(model), *heads(model))


def heads(model: Architecture) -> tuple[Linear, ...]:
    """The head, where it is a layer of its own and not the embeddings again."""
    return () if model.tied_head else (Linear("lm_head", model.hidden_size, model.vocab_size),)


def gated(model: Architecture) -> bool:
    """Whether the feed-forward part is SwiGLU, with RMS norms around; otherwise it is GELU, with layer norms."""
    return model.family in ("llama", "qwen2")
