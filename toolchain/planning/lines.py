"""Plans as lines for people. Gigabytes are 10^9 bytes."""

from __future__ import annotations

from toolchain.planning import memory
from toolchain.planning.machine import Machine
from toolchain.planning.plan import Plan, changes, fitting
from toolchain.planning.survey import Fit


def of_plan(plan: Plan) -> list[str]:
    machine, settings = plan.machine, plan.settings
    each = " on each" if machine.count > 1 else ""
    room = f"{_gb(plan.bytes)} of {_gb(machine.memory)}{each}: {'fits' if plan.fits else 'does not fit'}"
    thumb = memory.rule_of_thumb(settings.method, plan.model.parameters, plan.trained)
    return [
        f"{plan.base}, {settings.method}, on {machine.count} x {machine.name}",
        f"trained: {plan.trained:,} of {plan.parameters:,} parameters",
        f"memory: {room}",
        *(f"  {_gb(part.bytes):>9}  {part.name}" for part in plan.terms),
        f"  by rule of thumb {_gb(thumb)} in all before activations",
        *_time(plan),
        *_changes(plan),
        "largest batch that fits at this length, without and with gradient checkpointing:",
        *(f"  {method:5} {sizes[False]:3} {sizes[True]:3}" for method, sizes in fitting(plan).items()),
    ]


def of_machine(machine: Machine, fits: list[Fit]) -> list[str]:
    speed = f", {machine.flops / 1e9:,.0f} GFLOP/s in products of matrices" if machine.flops else ""
    width = max(len(fit.base) for fit in fits)
    return [
        f"this machine: {machine.name}, {_gb(machine.memory)}{speed}, {8 * machine.number}-bit arithmetic",
        f"{'base':{width}}  {'parameters':>10}  {'training, one sequence a pass':34}  serving in q4f16_1",
        *(f"{fit.base:{width}}  {_billions(fit.parameters):>10}  {_training(fit):34}  {_serving(fit)}" for fit in fits),
    ]


def _time(plan: Plan) -> list[str]:
    if plan.duration is None:
        return ["time: not known"]
    spent = plan.duration
    cost = "" if plan.dollars is None else f", ${plan.dollars:,.2f} at ${plan.machine.price:g} an hour each"
    moving = f", of them {spent.moving / 3600:.1f} h moving weights between them" if spent.moving else ""
    of = f"{plan.settings.max_steps:,} steps, {spent.tokens:,} tokens, {spent.tokens_per_second:,.0f} a second"
    return [f"time: {spent.hours:.1f} h{moving}{cost} ({of})"]


def _changes(plan: Plan) -> list[str]:
    if plan.fits:
        return []
    wanted = changes(plan)
    return [f"to make it fit: {' '.join(wanted)}" if wanted else "no settings make it fit: more or larger devices do"]


def _training(fit: Fit) -> str:
    if fit.training is None:
        return "does not fit"
    spent = fit.training.duration
    speed = f", {_rate(spent.tokens_per_second)} tokens/s" if spent else ""
    return f"{fit.training.settings.method}, {_gb(fit.training.bytes)}{speed}"


def _serving(fit: Fit) -> str:
    return _gb(fit.serving_bytes) if fit.served else f"does not fit ({_gb(fit.serving_bytes)})"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}B"
