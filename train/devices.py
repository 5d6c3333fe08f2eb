"""What a training computes on and with: the device and its memory, the dtype of arithmetic, the kind of attention."""

from __future__ import annotations

import importlib.util
import sys

import torch

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.progress import Progress
from train.running import Device
from train.settings import Dtype

SDPA, FLASH = "sdpa", "flash_attention_2"


def find(wanted: Device) -> torch.device:
    """The device to train on. Raises SettingsError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, is_there in there.items() if is_there]
    if wanted != "auto" and wanted not in found:
        raise SettingsError(f"--device {wanted}: PyTorch finds none here", f"It finds: {', '.join(found)}.")
    return torch.device(found[0] if wanted == "auto" else wanted)


def arithmetic(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in. A processor without instructions for bfloat16 is many times slower with it."""
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
    return torch.bfloat16 if _processor_has_bfloat16() else torch.float32


def peak_memory(device: torch.device) -> int | None:
    """The most that was ever taken, in bytes: of the GPU, else of this process; None where that cannot be known.

    Of Apple's GPUs it is what Metal has handed out by now: no peak is kept, and PyTorch's allocator keeps the blocks.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attention_for(device: torch.device, dtype: torch.dtype, progress: Progress) -> str:
    """The attention to train with, which is told with its reason: flash attention 2 where it can be had, else SDPA."""
    if device.type != "cuda":
        chosen, why = SDPA, f"flash attention 2 needs a CUDA device, and this is {device.type}"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        chosen, why = SDPA, f"flash attention 2 does not support {torch.cuda.get_device_name(device)}"
    elif dtype not in (torch.float16, torch.bfloat16):
        chosen, why = SDPA, "flash attention 2 computes in 16 bits only"
    elif importlib.util.find_spec("flash_attn") is None:
        chosen, why = SDPA, "flash attention 2 is not installed (the extra flash)"
    else:
        chosen, why = FLASH, "it is installed and the device supports it"
    progress.say(f"attention: {chosen}, because {why}")
    return chosen


def _processor_has_bfloat16() -> bool:
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capability.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
