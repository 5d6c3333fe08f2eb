"""The linear layers of a transformer block, and with them what is trained, quantized and multiplied."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures.facts import Architecture

FIM_TOKENS = 3
"""What `--add-fim-tokens` adds to a vocabulary that has an end of text."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of every block; `shares` says that its input is also kept as another layer's output."""

    name: str
    inputs: int
    outputs: int
    shares: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


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


def gated(model: Architecture) -> bool:
    """Whether the feed-forward part is SwiGLU, with RMS norms around; otherwise it is GELU, with layer norms."""
    return model.family in ("llama", "qwen2")


def block_weights(model: Architecture) -> int:
    """Weights in the linear layers of all blocks."""
    return model.layers * sum(layer.weights for layer in of_block(model))


def adapter_parameters(model: Architecture, rank: int, targets: tuple[str, ...] = ()) -> int:
    """Parameters of a LoRA of this rank: two matrices for each layer called as `targets`, else the family's list."""
    adapted = targets or model.lora_targets
    return model.layers * sum(rank * (x.inputs + x.outputs) for x in of_block(model) if x.name in adapted)


def token_rows(model: Architecture) -> int:
    """Parameters of the rows that FIM tokens get: in the embeddings, and in a head of its own."""
    return FIM_TOKENS * model.hidden_size * (1 if model.tied_head else 2)


def multiplied(model: Architecture) -> int:
    """Weights that each token is multiplied with: those of the blocks and the head."""
    return block_weights(model) + model.vocab_size * model.hidden_size
