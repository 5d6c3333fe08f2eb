"""How long a training takes: arithmetic at the speed that a training reaches, and weights that move between GPUs.

A token costs 2 operations a weight forward, 2 for the gradient of activations, 2 for that of weights where they are
trained (Kaplan et al. 2020, arXiv:2001.08361), and with checkpointing 2 again; attention is counted over the whole
square, since masks of packed sequences are explicit. Nothing is taken to be hidden behind something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import layers, memory
from toolchain.planning.settings import PlanSettings


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


def operations(model: Architecture, settings: PlanSettings) -> float:
    """Operations of training for a token."""
    length, trained = settings.sequence_length, memory.trained_parameters(model, settings)
    forward, backward = forward_operations(model, length), 2 * layers.multiplied(model) + 2 * _attention(model, length)
    if settings.method == "full":
        backward += 2 * layers.multiplied(model)
    else:
        forward, backward = forward + 2 * trained, backward + 4 * trained
    return forward * (2 if settings.gradient_checkpointing else 1) + backward


def predict(model: Architecture, settings: PlanSettings, flops: float, count: int, bandwidth: float) -> Duration:
    """A training of `max_steps` on `count` devices that reach `flops` a second and exchange `bandwidth` bytes."""
    in_a_pass = settings.batch_size * settings.sequence_length
    passes = settings.max_steps * settings.gradient_accumulation
    measuring = (
        settings.evaluate_sequences * settings.sequence_length * (settings.max_steps // settings.evaluate_every + 1)
    )
    computing = (
        passes * in_a_pass * operations(model, settings)
        + measuring * forward_operations(model, settings.sequence_length) / count
    ) / flops
    moving = passes * moved_bytes(model, settings, count) / bandwidth
    return Duration(computing + moving, moving, passes * in_a_pass * count)


def moved_bytes(model: Architecture, settings: PlanSettings, count: int) -> float:
    """What a GPU receives in a pass: weights for both directions, and gradients of what is trained."""
    trained = 2 * memory.trained_parameters(model, settings)
    weights = trained if settings.method == "full" else memory.frozen_bytes(model, settings.method, 2)
    return (2 * weights + trained) * (count - 1) / count


def _attention(model: Architecture, length: int) -> float:
    """Operations for a token's scores and sums, `2 · 2 · T · D` a layer."""
    seen = min(length, model.window or length)
    return 4.0 * seen * model.query_size * model.layers
