"""What the command line asks of planning: settings put together, a plan made, its facts and its lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import choose
from toolchain.planning import gpus, lines, machine, models, plan, published, survey
from toolchain.planning.machine import Machine
from toolchain.planning.settings import MachineSettings
from train import presets
from train.bases.base import refuse_quantized
from train.presets import Preset
from train.requirements import check_device, check_processes
from train.settings import TrainSettings
from train.shape import check_shape

Told = tuple[dict[str, Any], list[str]]


def run(
    base: str | None, preset: Preset | None, tables: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]
) -> Told:
    """Facts for a program and lines for people. Flags come first, then `[train]`, then the preset."""
    settings = settings_for(preset, tables, flags)
    asked = {"count": preset.count, "gpu": preset.gpu} if preset else {}
    wanted = choose(MachineSettings, "plan", {"plan": asked}, flags)
    if wanted.gpu is None and wanted.count > 1:
        raise SettingsError("--count needs a GPU to count", f"Name one with --gpu: {', '.join(gpus.names())}.")
    where = _planned(wanted, settings) if wanted.gpu else machine.this_machine(settings.dtype)
    check_processes(settings, wanted.count)
    if wanted.gpu and wanted.gpu.startswith("apple"):
        check_device(settings, "mps")
    base = base or (preset.base if preset else None)
    if base is None:
        if wanted.gpu:
            raise SettingsError("there is no base to plan for", "Name one with --base, or a --preset.")
        return _surveyed(where, settings)
    model = models.read(base)
    refuse_quantized(model, base)
    check_shape(settings, model, base)
    if settings.add_fim_tokens:
        model = models.with_fim_tokens(base, model)
    made = plan.predict(base, model, settings, where)
    facts, shown = plan.to_json(made), lines.of_plan(made)
    if preset is not None and preset.name in published.RUNS:
        shown += _published(preset)
    return facts, shown


def settings_for(
    preset: Preset | None,
    tables: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    flags: Mapping[str, Any] = MappingProxyType({}),
) -> TrainSettings:
    """The training that is planned, from flags, then `[train]` of `fimble.toml`, then the preset."""
    return choose(TrainSettings, "train", tables, presets.beneath(preset, tables, flags) if preset else flags)


def _surveyed(where: Machine, settings: TrainSettings) -> Told:
    fits = survey.of(where, settings)
    rows = [
        {
            "base": fit.base,
            "parameters": fit.parameters,
            "training": fit.training and plan.to_json(fit.training),
            "serving_bytes": round(fit.serving_bytes),
            "served": fit.served,
        }
        for fit in fits
    ]
    return {"machine": asdict(where), "bases": rows}, lines.of_machine(where, fits)


def _published(preset: Preset) -> list[str]:
    """What was published of the run that a preset repeats, whatever else is planned for."""
    model, settings, gpu = models.read(preset.base), settings_for(preset), gpus.find(preset.gpu)
    parts = published.terms(model, settings, preset.count)
    return published.lines(published.RUNS[preset.name], parts, published.lasting(model, settings, gpu, preset.count))


def _planned(wanted: MachineSettings, settings: TrainSettings) -> Machine:
    assert wanted.gpu is not None
    found = gpus.find(wanted.gpu)
    number = 4 if settings.dtype == "float32" else 2
    price = wanted.price if wanted.price is not None else found.price
    flops = found.flops if number == 2 else None
    return Machine(found.name, found.memory, flops, price, wanted.count, gpus.bandwidth(wanted.link), number=number)
