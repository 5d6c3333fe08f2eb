"""`fimble plan`: memory, time and cost of a training, what would fit, and what to change when it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.settings import flag
from toolchain.planning import duration, memory
from toolchain.planning.duration import Duration
from toolchain.planning.machine import Machine
from toolchain.planning.memory import Term
from train.settings import Method, TrainSettings

USABLE = 0.95
"""The share of the memory that may be planned for; the rest is lost between blocks that the allocator hands out."""
BATCHES = (64, 32, 16, 8, 4, 2, 1)
METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""From the one that needs the most memory on."""
SHORTEST = 512
"""No shorter sequences are proposed."""


@dataclass(frozen=True)
class Plan:
    """A training and what it takes. Bytes are those of one device."""

    base: str
    model: Architecture
    settings: TrainSettings
    machine: Machine
    terms: list[Term]
    duration: Duration | None

    @property
    def trained(self) -> int:
        return memory.trained_parameters(self.model, self.settings)

    @property
    def parameters(self) -> int:
        """Parameters of the model, an adapter's included."""
        return self.model.parameters + (0 if self.settings.method == "full" else self.trained)

    @property
    def bytes(self) -> float:
        return memory.total(self.terms)

    @property
    def fits(self) -> bool:
        return self.bytes <= USABLE * self.machine.memory

    @property
    def dollars(self) -> float | None:
        price = self.machine.price
        return None if self.duration is None or price is None else self.duration.hours * price * self.machine.count


def predict(base: str, model: Architecture, settings: TrainSettings, machine: Machine) -> Plan:
    """Plan a training of `base`, which has to have room for the `settings`, with sequences cut to its context."""
    settings = replace(settings, sequence_length=min(settings.sequence_length, model.context_size))
    taken = memory.terms(model, settings, machine.count, machine.on_gpu, machine.number)
    found = None
    if machine.flops is not None:
        found = duration.predict(model, settings, machine.flops, machine.count, machine.bandwidth)
    return Plan(base, model, settings, machine, taken, found)


def fitting(plan: Plan) -> dict[str, dict[bool, int]]:
    """The largest batch that fits, for each method without and with checkpointing; 0 where none does."""
    return {
        method: {
            checkpointing: _largest(
                plan, replace(plan.settings.with_method(method), gradient_checkpointing=checkpointing)
            )
            for checkpointing in (False, True)
        }
        for method in reversed(METHODS)
    }


def changes(plan: Plan) -> list[str]:
    """What to change so that the training fits, the least of it first; empty when it fits, or when nothing helps."""
    if plan.fits:
        return []
    for settings in _smaller(plan.settings):
        if predict(plan.base, plan.model, settings, plan.machine).fits:
            return [
                _written(field.name, getattr(settings, field.name))
                for field in fields(settings)
                if _differs(plan, settings, field.name)
            ]
    return []


def to_json(plan: Plan) -> dict[str, Any]:
    spent = plan.duration
    return {
        "base": plan.base,
        "machine": asdict(plan.machine),
        "settings": asdict(plan.settings),
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "rule_of_thumb_bytes": memory.rule_of_thumb(plan.settings.method, plan.model.parameters, plan.trained),
        "memory": {part.name: round(part.bytes) for part in plan.terms},
        "bytes": round(plan.bytes),
        "fits": plan.fits,
        "largest_batch": {
            method: {"without_checkpointing": sizes[False], "with_checkpointing": sizes[True]}
            for method, sizes in fitting(plan).items()
        },
        "changes": changes(plan),
        "hours": spent and spent.hours,
        "hours_between_gpus": spent and spent.moving / 3600,
        "tokens": spent and spent.tokens,
        "tokens_per_second": spent and spent.tokens_per_second,
        "dollars": plan.dollars,
    }


def _largest(plan: Plan, settings: TrainSettings) -> int:
    tried = (replace(settings, batch_size=size) for size in BATCHES)
    return next((s.batch_size for s in tried if predict(plan.base, plan.model, s, plan.machine).fits), 0)


def _smaller(settings: TrainSettings) -> Iterator[TrainSettings]:
    """Settings that need less memory, those that change the result least first: as many sequences a step as before."""
    sequences = settings.batch_size * settings.gradient_accumulation
    changed = settings
    for method in METHODS[METHODS.index(settings.method) :]:
        for checkpointing in dict.fromkeys((settings.gradient_checkpointing, True)):
            size = settings.batch_size
            while size:
                changed = replace(
                    settings.with_method(method),
                    gradient_checkpointing=checkpointing,
                    batch_size=size,
                    gradient_accumulation=math.ceil(sequences / size),
                )
                yield changed
                size //= 2
    while changed.sequence_length > SHORTEST:
        shorter = changed.sequence_length // 2
        context = min(changed.repository_context, shorter // 2)
        changed = replace(changed, sequence_length=shorter, repository_context=context)
        yield changed


def _differs(plan: Plan, settings: TrainSettings, name: str) -> bool:
    return bool(getattr(plan.settings, name) != getattr(settings, name))


def _written(name: str, value: object) -> str:
    return flag(name) if value is True else f"{flag(name)} {value}"
