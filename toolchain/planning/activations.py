"""What the backward pass needs of the forward pass, counted as Korthikanti et al. 2022 (arXiv:2205.05198) count it.

They add up the inputs that each operation of a block keeps. Here the operations are those of transformers' models under
autocast, with PEFT's adapters where there are any, and scaled dot-product attention with an explicit mask. The tests
count the tensors that autograd really saves.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures import linear
from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import layers

FLOAT32 = 4
LOGITS_AT_ONCE = 1 << 26
"""That of `train/run/cross_entropy.py`, which cannot be imported without PyTorch; a test holds them equal."""


@dataclass(frozen=True)
class Pass:
    """One forward pass: its model and shape, what is trained, and whether on a GPU.

    `number` is the bytes of a number in arithmetic, `residual` of one between blocks: that of the embeddings.
    """

    model: Architecture
    batch: int
    length: int
    full: bool
    number: int
    residual: int
    rank: int = 0
    targets: tuple[str, ...] = ()
    token_rows: bool = False
    on_gpu: bool = True

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def mixed(self) -> bool:
        """Whether products are in 16 bits, with weights that are trained kept in float32."""
        return self.number < FLOAT32


def of_block(run: Pass) -> int:
    """Bytes that one block keeps."""
    return run.tokens * _of_token(run) + adapter_copies(run)


def between_blocks(run: Pass) -> int:
    """Bytes of a block's input, all that activation checkpointing keeps of it."""
    return run.tokens * run.residual * run.model.hidden_size


def of_loss(run: Pass) -> int:
    """Bytes at the loss's peak as `train/run/cross_entropy.py` computes it, a few positions at a time.

    Their logits and log-probabilities in float32. Besides all hidden states that predict something, with their
    gradient, and of a head that is trained the gradient, with what is added to it; of one with rows that are, a copy.
    """
    model = run.model
    positions = min(run.tokens, max(1, LOGITS_AT_ONCE // model.vocab_size))
    head = FLOAT32 + (run.number if run.mixed else 0) if run.full else run.number * run.token_rows
    return (
        2 * FLOAT32 * positions * model.vocab_size
        + 2 * run.residual * run.tokens * model.hidden_size
        + head * model.vocab_size * model.hidden_size
    )


def of_whole_loss(run: Pass) -> int:
    """Bytes at the peak of a loss over all positions at once: log-probabilities and both gradients, in float32."""
    return 3 * FLOAT32 * run.tokens * run.model.vocab_size


def of_gradients(run: Pass) -> int:
    """Bytes of the gradients that exist at once at a block's widest place.

    In float32 that is one before and one after the activation. In mixed precision they are half as large, and an
    adapter's, which passes through float32, comes beside them.
    """
    return 2 * FLOAT32 * run.tokens * run.model.inner_size


def _of_token(run: Pass) -> int:
    model = run.model
    return _norms(run) + _attention(run) + run.number * sum(_inputs(run)) + run.number * _feed_forward(model)


def _norms(run: Pass) -> int:
    """Inputs and statistics of both norms. An RMS norm that is trained keeps its normalized input too."""
    hidden = run.model.hidden_size
    if linear.gated(run.model):
        kept = 2 if run.full else 1
        return 2 * (kept * FLOAT32 * hidden + FLOAT32)
    # On a GPU autocast computes a layer norm in float32.
    number = FLOAT32 if run.on_gpu else run.residual
    return 2 * (number * hidden + 2 * FLOAT32)


def _attention(run: Pass) -> int:
    """Queries, keys, values and output, a sum of exponentials for each head, and the mask as numbers.

    Grouped keys and values are repeated for every query head; a single one (multi-query) is not.
    """
    model = run.model
    kept = model.qkv_size + model.query_size if model.kv_heads == 1 else 4 * model.query_size
    return run.number * (kept + run.length) + FLOAT32 * model.heads


def _inputs(run: Pass) -> list[int]:
    """Sizes of the inputs that linear layers keep for the gradient of their weights.

    In mixed precision each layer has a copy of its own; otherwise layers with one input share it. Each adapter also
    keeps what lies between its two matrices.
    """
    block, hidden = linear.of_block(run.model), run.model.hidden_size
    adapted = [layer for layer in block if layer.name in (run.targets or run.model.lora_targets)]
    between = [] if run.full else [run.rank for _ in adapted]
    if not run.mixed:
        return [hidden, hidden, run.model.inner_size, *between]
    if run.full:
        return [layer.inputs for layer in block if not layer.shares]
    return [layer.inputs for layer in adapted] + between


def _feed_forward(model: Architecture) -> int:
    """Numbers that the activation keeps: its input, and with SwiGLU its output and what that is multiplied with."""
    return (3 if linear.gated(model) else 1) * model.inner_size


def adapter_copies(run: Pass) -> int:
    """Adapters are kept in float32; mixed precision copies them."""
    if run.full or not run.mixed:
        return 0
    return run.number * layers.adapter_parameters(run.model, run.rank, run.targets) // run.model.layers
