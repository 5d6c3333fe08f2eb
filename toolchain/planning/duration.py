"""How long a training takes: arithmetic at the speed that a training reaches, and weights that move between GPUs.

A token costs 2 operations a weight forward, 2 for the gradient of activations, 2 for that of weights where they are
trained (Kaplan et al. 2020, arXiv:2001.08361), and with checkpointing 2 again in the blocks; attention is counted over
the whole square, since masks of packed sequences are explicit. Nothing is taken to be hidden behind something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import layers, memory
from toolchain.planning.activations import FLOAT32
from train.settings import TrainSettings


@dataclass(frozen=True)
class Duration:
    """Seconds of a whole training, and of them those in which weights and gradients move between GPUs."""

    seconds: float
    moving: float
    tokens: int

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def forward_operations(model: Architecture, length: int) -> float:
    """Operations of the forward pass for a token in a sequence of this length."""
    return 2 * layers.multiplied(model) + _attention(model, length)


def operations(model: Architecture, settings: TrainSettings) -> float:
    """Operations of training for a token."""
    trained, attention = memory.trained_parameters(model, settings), _attention(model, settings.sequence_length)
    adapter = 0 if settings.method == "full" else trained
    head = 2 * model.vocab_size * model.hidden_size
    blocks = 2 * (layers.block_weights(model) + adapter) + attention
    learning = 2 * (layers.multiplied(model) if settings.method == "full" else trained)
    again = blocks if settings.gradient_checkpointing else 0
    backward = blocks + head + attention + learning  # attention multiplies two factors, both with gradients
    return blocks + head + again + backward


def predict(
    model: Architecture,
    settings: TrainSettings,
    flops: float,
    count: int,
    bandwidth: float,
    moved: float | None = None,
) -> Duration:
    """A training of `max_steps` on `count` devices that reach `flops` a second and exchange `bandwidth` bytes.

    `moved` are the bytes that a device receives in a pass: those of our loop unless given.
    """
    in_a_pass = settings.batch_size * settings.sequence_length
    passes = settings.max_steps * settings.gradient_accumulation
    evaluations = 1 + math.ceil(settings.max_steps / settings.evaluate_every)  # one before the first step
    measured = evaluations * settings.evaluate_sequences * settings.sequence_length
    computing = (
        passes * in_a_pass * operations(model, settings)
        + measured * forward_operations(model, settings.sequence_length) / count
    ) / flops
    moving = passes * (moved_bytes(model, settings, count) if moved is None else moved) / bandwidth
    return Duration(computing + moving, moving, passes * in_a_pass * count)


def moved_bytes(model: Architecture, settings: TrainSettings, count: int) -> float:
    """What a GPU receives in a pass: weights in 16 bits for both directions, and gradients in float32."""
    weights = 2 * memory.gathered_parameters(model, settings.method)
    gradients = FLOAT32 * memory.trained_parameters(model, settings)
    return (2 * weights + gradients) * (count - 1) / count


def _attention(model: Architecture, length: int) -> float:
    """Operations for a token's scores and sums, `2 · 2 · T · D` a layer."""
    seen = min(length, model.window or length)
    return 4.0 * seen * model.query_size * model.layers
