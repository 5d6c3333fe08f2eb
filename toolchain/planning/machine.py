"""What a training runs on: a machine to plan for, and this one."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import UserError
from train.settings import Dtype

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
MATRIX = 1024
MEASURING_SECONDS = 0.5


@dataclass(frozen=True)
class Machine:
    """What a training runs on: `count` devices with `memory` bytes each.

    `flops` a second is what a training reaches on one, None where that is not known; `number` the bytes of a number in
    arithmetic, `price` dollars an hour for one, `bandwidth` bytes a second between them.
    """

    name: str
    memory: float
    flops: float | None
    price: float | None = None
    count: int = 1
    bandwidth: float = 1.0
    on_gpu: bool = True
    number: int = 2


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
