"""This machine: what training would run on here, and which well-known bases can be trained and served."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import UserError
from toolchain.planning import models
from toolchain.planning import plan as planning
from toolchain.planning.plan import Machine, Plan
from train.settings import Dtype, TrainSettings

Q4F16_1_BYTES = 0.5 + 2 / 32
"""A weight in q4f16_1: four bits, and a float16 scale for each 32."""
SERVER_BYTES = 300_000_000
"""The server itself: a round figure."""
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
MATRIX = 1024
MEASURING_SECONDS = 0.5


@dataclass(frozen=True)
class Fit:
    """A well-known base on this machine: the first method that can train it with its settings, and serving's bytes."""

    base: str
    parameters: int
    training: Plan | None
    serving_bytes: float
    served: bool


def this_machine(wanted: Dtype) -> Machine:
    """What `fimble train` would use here for arithmetic in `wanted`, at the speed of a product of matrices.

    Without torch only the memory is known. Raises UserError where not even that is.
    """
    if not hasattr(os, "sysconf"):
        raise UserError("this system does not tell its memory", "Name a GPU to plan for with --gpu.")
    total = min(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), _container_memory())
    if importlib.util.find_spec("torch") is None:
        return Machine("cpu", total, None, on_gpu=False, number=2 if wanted == "bfloat16" else 4)
    import torch

    from train import devices

    device = devices.find("auto")
    dtype = devices.arithmetic(wanted, device)
    flops = _measure(torch, device, dtype)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return Machine(found.name, float(found.total_memory), flops, number=dtype.itemsize)
    return Machine(device.type, total, flops, on_gpu=device.type != "cpu", number=dtype.itemsize)


def survey(machine: Machine, settings: TrainSettings) -> list[Fit]:
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
    tried = (planning.predict(name, model, small.with_method(method), machine) for method in ("lora", "qlora"))
    needed = serving_bytes(model)
    served = needed <= planning.USABLE * machine.memory
    return Fit(name, model.parameters, next((plan for plan in tried if plan.fits), None), needed, served)


def _container_memory() -> float:
    """What a container may use of Linux's memory; infinite where none is limited."""
    try:
        told = CONTAINER_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return math.inf
    return float(told) if told.isdigit() else math.inf


def _measure(torch: Any, device: Any, dtype: Any) -> float:
    """Operations a second in products of square matrices, after a first that does not count."""
    left = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    done, begun = 0, 0.0
    while not begun or time.monotonic() - begun < MEASURING_SECONDS:
        float((left @ left)[0, 0])  # waits for the device
        begun, done = begun or time.monotonic(), done + 1
    return 2.0 * MATRIX**3 * (done - 1) / (time.monotonic() - begun)
