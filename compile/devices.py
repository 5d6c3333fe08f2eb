"""TVM's descriptions of the devices that libraries are compiled for."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi

from compile.kernels.gpu.limits import Limits
from toolchain.contracts import tvm_package
from toolchain.contracts.errors import UnknownTarget
from toolchain.contracts.processors import LEVELS
from toolchain.contracts.targets import Device, Target

# What LLVM calls each machine and each operating system.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
SYSTEMS = {"linux": "unknown-linux-gnu", "macos": "apple-macos11", "windows": "pc-windows-msvc"}
LIMITS: dict[Device, Limits] = {
    "cuda": Limits(threads=1024, shared_bytes=49152),
    "metal": Limits(),
    "vulkan": Limits(),
}
# TVM's own attention kernels read these.
ATTRIBUTES: dict[Device, dict[str, Any]] = {
    "cuda": {"arch": "sm_80", "thread_warp_size": 32},
    "metal": {"thread_warp_size": 32},
    "vulkan": {
        "thread_warp_size": 1,
        **dict.fromkeys(("supports_float16", "supports_16bit_buffer", "supports_int8", "supports_int64"), True),
    },
}


def device(target: Target) -> Any:
    """TVM's target. Raises UnknownTarget when the installed TVM has no code generator for it."""
    kind = "llvm" if target.device == "cpu" else target.device
    if tvm_ffi.get_global_func(f"target.build.{kind}", allow_missing=True) is None:
        package = tvm_package.find()
        raise UnknownTarget(
            f"the installed TVM ({package.distribution} {package.version}) cannot compile for {target.device}",
            "Install MLC's build of TVM instead: pip uninstall apache-tvm, then pip install --pre "
            "-f https://mlc.ai/wheels mlc-ai-nightly-cpu (on Linux and Windows it has Vulkan).",
        )
    return tvm.target.Target(description(target))


def description(target: Target) -> dict[str, Any]:
    """TVM's description of a device, and for a GPU of the processor that drives it."""
    level = LEVELS[target.level]
    apple = target.system == "macos" and level.machine == "arm64"
    host = {
        "kind": "llvm",
        "mtriple": f"{'arm64' if apple else MACHINES[level.machine]}-{SYSTEMS[target.system]}",
        "mcpu": level.name if level.machine == "x86_64" else "apple-m1" if apple else "generic",
    }
    if target.device == "cpu":
        return host
    limits = LIMITS[target.device]
    return {
        "kind": target.device,
        "max_threads_per_block": limits.threads,
        "max_shared_memory_per_block": limits.shared_bytes,
        **ATTRIBUTES[target.device],
        "host": host,
    }
