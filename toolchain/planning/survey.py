"""Which well-known bases a machine can train and serve."""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import models
from toolchain.planning.machine import Machine
from toolchain.planning.plan import USABLE, Plan, predict
from train.settings import TrainSettings

Q4F16_1_BYTES = 0.5 + 2 / 32
"""A weight in q4f16_1: four bits, and a float16 scale for each 32."""
SERVER_BYTES = 300_000_000
"""The server itself: a round figure."""


@dataclass(frozen=True)
class Fit:
    """A well-known base on this machine: the first method that can train it with its settings, and serving's bytes."""

    base: str
    parameters: int
    training: Plan | None
    serving_bytes: float
    served: bool


def of(machine: Machine, settings: TrainSettings) -> list[Fit]:
    """All well-known bases on a machine, the smallest first."""
    shapes = {name: architectures.from_config(config) for name, config in models.known().items()}
    return [_fit(name, shapes[name], machine, settings) for name in sorted(shapes, key=lambda n: shapes[n].parameters)]


def serving_bytes(model: Architecture) -> float:
    """Memory to serve a model in q4f16_1: weights, and keys and values in float16 for its whole context."""
    seen = min(model.context_size, model.window or model.context_size)
    cache = 2 * 2 * model.layers * model.kv_heads * model.head_size * seen
    return Q4F16_1_BYTES * model.parameters + cache + SERVER_BYTES


def _fit(name: str, model: Architecture, machine: Machine, settings: TrainSettings) -> Fit:
    small = replace(
        settings,
        batch_size=1,
        gradient_accumulation=16,
        gradient_checkpointing=True,
        lora_target=(),  # names that one family has and another has not
    )
    tried = (predict(name, model, small.with_method(method), machine) for method in ("lora", "qlora"))
    needed = serving_bytes(model)
    served = needed <= USABLE * machine.memory
    return Fit(name, model.parameters, next((plan for plan in tried if plan.fits), None), needed, served)
