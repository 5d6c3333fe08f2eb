"""How many weights the layers of a model have: those that are trained, quantized and multiplied."""

from __future__ import annotations

from toolchain.contracts.architectures import linear
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.architectures.linear import Linear

FIM_TOKENS = 3
"""What `--add-fim-tokens` adds to a vocabulary that has an end of text."""


def block_weights(model: Architecture) -> int:
    """Weights in the linear layers of all blocks."""
    return model.layers * sum(layer.weights for layer in linear.of_block(model))


def adapter_parameters(model: Architecture, rank: int, targets: tuple[str, ...] = ()) -> int:
    """Parameters of a LoRA of this rank: two matrices for each layer called as `targets`, else the family's list."""
    adapted = targets or model.lora_targets

    def added(layers: tuple[Linear, ...]) -> int:
        return sum(rank * (layer.inputs + layer.outputs) for layer in layers if layer.name in adapted)

    return model.layers * added(linear.of_block(model)) + added(linear.heads(model))


def token_rows(model: Architecture) -> int:
    """Parameters of the rows that FIM tokens get: in the embeddings, and in a head of its own."""
    return FIM_TOKENS * model.hidden_size * (1 if model.tied_head else 2)


def multiplied(model: Architecture) -> int:
    """Weights that each token is multiplied with: those of the blocks and the head."""
    return block_weights(model) + model.vocab_size * model.hidden_size
