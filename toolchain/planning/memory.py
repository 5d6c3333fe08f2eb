"""The memory of a training on each GPU, term by term, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures import linear
from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import activations, layers
from toolchain.planning.activations import FLOAT32, Pass
from train.settings import TrainSettings

LIBRARIES = 750_000_000
"""The device's context, its libraries and their workspaces: a round figure, not a measured one."""
MOMENTS = 2 * FLOAT32
MOMENTS_BLOCK = 256
MOMENTS_8_BITS = 2 * (1 + FLOAT32 / MOMENTS_BLOCK)
"""As bitsandbytes keeps them: a byte each, and a scale for each block."""
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256
NF4_TABLES = (16 + 256 + 1) * FLOAT32


@dataclass(frozen=True)
class Term:
    name: str
    bytes: float


def nf4_bytes(weights: int) -> int:
    """A matrix in NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314), as bitsandbytes stores it.

    4 bits a weight, 8 bits for the scale of each 64, a float32 for each 256 of those scales, and two lookup tables.
    """
    scales = -(-weights // NF4_BLOCK)
    return -(-weights // 2) + scales + FLOAT32 * -(-scales // NF4_NESTED_BLOCK) + NF4_TABLES


def rule_of_thumb(method: str, parameters: int, trained: int) -> float:
    """The reference's arithmetic, before activations: 16 bytes for what is trained, 2 or half a byte for the rest.

    16 are 2 for a weight, 2 for its gradient, 4 for a float32 copy and 8 for Adam's moments.
    """
    frozen = {"full": 0.0, "lora": 2.0, "qlora": 0.5}[method]
    return frozen * parameters + 16 * trained


def trained_parameters(model: Architecture, settings: TrainSettings) -> int:
    if settings.method == "full":
        return model.parameters
    rows = layers.token_rows(model) if settings.add_fim_tokens else 0
    return layers.adapter_parameters(model, settings.lora_rank, settings.lora_target) + rows


def terms(
    model: Architecture,
    settings: TrainSettings,
    count: int,
    on_gpu: bool,
    number: int,
    kept: int | None = None,
    whole_loss: bool = False,
) -> list[Term]:
    """What one of `count` GPUs holds at the peak; `number` is the bytes of a number in arithmetic.

    `kept` is that of the weights that QLoRA does not quantize: the same in our loop, 4 after PEFT's preparation.
    `whole_loss` says that the logits of all positions stand in memory at once, as they do not in our loop.
    Sharded over several, each holds its part of all states, other than weights in NF4, and gathers one block after
    another (FSDP, Zhao et al. 2023, arXiv:2304.11277), reducing gradients in every pass.
    """
    kept = kept or number
    run = Pass(
        model=model,
        batch=settings.batch_size,
        length=settings.sequence_length,
        full=settings.method == "full",
        number=number,
        rank=settings.lora_rank,
        targets=settings.lora_target,
        token_rows=settings.add_fim_tokens and settings.method != "full",
        on_gpu=on_gpu,
        residual=FLOAT32 if settings.method == "full" else kept,
    )
    return [
        *_states(model, settings, count, kept, on_gpu),
        *_gathered(model, settings, count, number),
        *_kept(run, settings.gradient_checkpointing, count > 1, whole_loss),
        Term("context and libraries", LIBRARIES),
    ]


def total(parts: list[Term]) -> float:
    return sum(part.bytes for part in parts)


def frozen_bytes(model: Architecture, method: str, kept: int) -> int:
    """The base below an adapter: with qlora the linear layers of the blocks in NF4, all else in `kept` bytes."""
    if method == "lora":
        return kept * model.parameters
    return quantized_bytes(model) + kept * (model.parameters - layers.block_weights(model))


def quantized_bytes(model: Architecture) -> int:
    """The linear layers of all blocks in NF4."""
    return model.layers * sum(nf4_bytes(layer.weights) for layer in linear.of_block(model))


def gathered_parameters(model: Architecture, method: str) -> int:
    """Weights that sharding spreads and gathers: all but those in NF4, which are whole in every process."""
    return model.parameters - (layers.block_weights(model) if method == "qlora" else 0)


def unreduced_gradients(model: Architecture) -> int:
    """Whole gradients in 16 bits, which each GPU holds besides where passes are added up without reducing them."""
    return 2 * model.parameters


def _states(model: Architecture, settings: TrainSettings, count: int, kept: int, on_gpu: bool) -> list[Term]:
    trained = trained_parameters(model, settings) / count
    if settings.method == "full":
        base = [Term("weights, float32", FLOAT32 * trained)]
    else:
        whole = quantized_bytes(model) if settings.method == "qlora" else 0
        stored = whole + (frozen_bytes(model, settings.method, kept) - whole) / count
        name = "weights, NF4 in the blocks" if settings.method == "qlora" else f"weights, {8 * kept} bits"
        base = [Term(name, stored), Term("adapter, float32", FLOAT32 * trained)]
    return [*base, Term("gradients, float32", FLOAT32 * trained), _moments(settings, trained, on_gpu)]


def _moments(settings: TrainSettings, trained: float, on_gpu: bool) -> Term:
    """Adam's moments. Paged ones are on the GPU in a step alone, when the activations are gone."""
    if settings.optimizer == "adamw_8bit":
        return Term("Adam's moments, 8 bits", MOMENTS_8_BITS * trained)
    if settings.optimizer == "paged_adamw_32bit" and on_gpu:
        return Term(f"Adam's moments, {MOMENTS * trained / 1e9:.2f} GB in main memory", 0)
    return Term("Adam's moments, float32", MOMENTS * trained)


def _gathered(model: Architecture, settings: TrainSettings, count: int, number: int) -> list[Term]:
    """Weights that are whole, or in the arithmetic's dtype, while a block is at work."""
    found = []
    if settings.method == "qlora":
        widest = max(layer.weights for layer in linear.of_block(model))
        found.append(Term("a layer's weights, dequantized", number * widest))
    if count > 1:
        blocks = layers.block_weights(model)
        outside, block = model.parameters - blocks, blocks / model.layers
        # The block at work and the next one; embeddings and head throughout.
        gathered = outside + (0 if settings.method == "qlora" else 2 * block)
        # Of every weight that is trained the gradient, as the block at work gives it, is reduced in float32.
        trained = outside + block if settings.method == "full" else 0
        found.append(Term("gathered blocks and embeddings", number * (gathered + trained)))
        if trained:
            found.append(Term("gradients of a block, in float32 to be reduced", FLOAT32 * block))
    return found


def _kept(run: Pass, checkpointing: bool, sharded: bool, whole_loss: bool) -> list[Term]:
    """Activations, and the copies that autocast makes of weights that are trained.

    The loss and what comes later in the pass have their peaks one after another: only the highest counts. Later, a tied
    head's gradient waits for that of the embeddings, and in mixed precision a layer's is converted before it is added.
    Copies live as long as the forward pass, in which the loss is; without checkpointing, as long as activations.
    """
    model, block = run.model, activations.of_block(run)
    embeddings, whole = model.vocab_size * model.hidden_size, run.full and not sharded
    copied = run.number if whole and run.mixed else 0  # bytes of a copy
    widest = max(layer.weights for layer in linear.of_block(model))
    new = FLOAT32 * ((widest if copied else 0) + (embeddings if whole and model.tied_head else 0))
    loss = activations.of_whole_loss(run) if whole_loss else activations.of_loss(run)
    gradients = activations.of_gradients(run) + new
    if not checkpointing:
        copies = Term(f"weights, copied to {8 * run.number} bits", copied * layers.multiplied(model))
        kept = [Term("activations", model.layers * block), *([copies] if copied else [])]
        return [*kept, _highest(loss, "a block's gradients", gradients)]
    between = Term("activations between blocks", model.layers * activations.between_blocks(run))
    again = block + gradients + copied * layers.block_weights(model) / model.layers
    alive = copied * layers.multiplied(model) + model.layers * activations.adapter_copies(run)
    return [between, _highest(loss + alive, "a block's activations, again, and gradients", again)]


def _highest(loss: float, name: str, later: float) -> Term:
    return Term("logits and loss", loss) if loss >= later else Term(name, later)
