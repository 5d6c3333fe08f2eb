"""A GPU's library that runs on the processor: each kernel's place is taken by a call of the emulator.

What calls the kernels stays as it is: the model's Relax functions and TVM's paged cache, on the processor's memory.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.compile.gpu.emulator import Emulator

HOOK = "tests.compile.gpu.emulate"


def with_stand_ins(module: Any, emulated: Emulator) -> Any:
    """The module with a function in place of every kernel that calls the emulator with the kernel's arguments.

    They are called through a global function of TVM's, so only one emulator is in use at a time.
    """
    import tvm
    from tvm import tirx

    def emulate(name: str, *arguments: Any) -> None:
        emulated(name, *(array_at(a) if hasattr(a, "shape") else a for a in arguments))

    tvm.register_global_func(HOOK, emulate, override=True)
    replaced = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, kernel in module.functions.items():
        if isinstance(kernel, tirx.PrimFunc):
            call = tirx.call_packed(HOOK, variable.name_hint, *kernel.params)
            replaced[variable] = tirx.PrimFunc(kernel.params, tirx.Evaluate(call)).with_attr(
                {"global_symbol": variable.name_hint, "tirx.is_scheduled": True}
            )
    return replaced


def array_at(tensor: Any) -> np.ndarray:
    """The memory of a tensor as an array, to be written to."""
    shape, dtype = tuple(int(n) for n in tensor.shape), np.dtype(str(tensor.dtype))
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.frombuffer(memory, dtype).reshape(shape)
