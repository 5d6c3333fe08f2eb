"""Threads for the kernels that come without: some of TVM's paged cache, and those that operators are legalized to.

TVM would compile such a kernel for the processor, without a word, and let it reach into the GPU's memory.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import dlight

from toolchain.contracts.errors import StageError


def bind_threads(module: tvm.IRModule, device: Any) -> tvm.IRModule:
    """The module with threads for every kernel that had none. Operators must have been legalized and folded before.

    Raises StageError with the names of kernels that stay without.
    """
    with device:
        module = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(module)
    loose = [name.name_hint for name, kernel in module.functions.items() if is_loose(kernel)]
    if loose:
        raise StageError(
            f"no threads of the GPU are bound to {', '.join(sorted(loose))}", "This release of TVM is not supported."
        )
    return module


def is_loose(function: Any) -> bool:
    """Whether it is a kernel without any threads bound."""
    if not isinstance(function, tirx.PrimFunc):
        return False
    kinds: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.For, lambda loop: kinds.append(loop.kind)))
    return tirx.ForKind.THREAD_BINDING not in kinds
