"""Runs the kernels that TVM makes for a GPU on the processor, as the very source text that the GPU's driver would get.

CUDA and Metal kernels are C++ once a small header supplies the rest, with barriers and shared memory (`shim/`). For
Vulkan TVM's wheel stops after lowering, so what is lowered for Vulkan is written out as CUDA.

Every run is made twice, with the threads of a block in opposite order, and must give the same bits both times: with a
barrier missing somewhere it does not. Shared memory and local variables start as garbage, and every array lies between
margins of NaN that must stay as they are, so that reading too early or out of bounds spoils the result.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SHIM = Path(__file__).parent / "shim"
HOST = {"kind": "llvm"}
TARGETS: dict[str, dict[str, Any]] = {
    "cuda": {"kind": "cuda", "arch": "sm_89", "host": HOST},
    "metal": {"kind": "metal", "max_threads_per_block": 256, "max_shared_memory_per_block": 32768, "host": HOST},
    "vulkan": {
        "kind": "vulkan",
        "max_threads_per_block": 256,
        "max_shared_memory_per_block": 32768,
        "supports_float16": True,
        "supports_16bit_buffer": True,
        "host": HOST,
    },
}
MARGIN = 4096
FAILURES = {1: "some threads of a block ended while others waited at a barrier", 2: "too many threads in a block"}
C_TYPES = {"float16": "half", "float32": "float", "uint32": "unsigned", "int32": "int", "int64": "long"}


def compiler() -> list[str] | None:
    """The start of a command line that compiles C++, or None."""
    for name in ("g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        # Its C++ library takes minutes to build at first; two headers of it are all that is asked for.
        return [sys.executable, "-P", "-m", "ziglang", "cc", "-x", "c++", f"-I{SHIM / 'library'}"]
    return None


def lower(functions: Mapping[str, Any], kind: str, hoist: bool = True) -> Any:
    """The device side of kernels after all of TVM's passes for a target, as its code generator gets it.

    Without `hoist`, expressions are not shared. Otherwise a kernel may get some that only its caller could work out.
    """
    import tvm
    import tvm_ffi

    caught: list[Any] = []
    hook = f"target.build.{kind}"
    original = tvm.get_global_func(hook, allow_missing=True)
    tvm.register_global_func(hook, lambda module, target: caught.append(module), override=True)
    try:
        named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": not hoist}):
            tvm.compile(tvm.IRModule(named), target=tvm.target.Target(TARGETS[kind]))
    finally:
        if original is None:
            tvm_ffi.remove_global_func(hook)
        else:
            tvm.register_global_func(hook, original, override=True)
    return caught[0]


def source_of(lowered: Any, language: str) -> str:
    """The source text of lowered kernels in "cuda" or "metal", whatever target they were lowered for."""
    import tvm

    target = tvm.target.Target(TARGETS[language])
    # For Vulkan the wheel has no names of functions such as exp; CUDA's are as good here.
    lowered = tvm.IRModule({name: function.with_attr("target", target) for name, function in lowered.functions.items()})
    lowered = tvm.tirx.transform.LowerIntrin()(lowered)
    return str(tvm.get_global_func(f"target.build.{language}")(lowered, target).inspect_source())


@cache
def compiled(source: str, folder: Path) -> Path:
    """The library made of C++. What is lowered for Vulkan is often the same as for CUDA, to the letter."""
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    written, library = folder / f"{name}.cpp", folder / f"{name}.so"
    written.write_text(source, encoding="utf-8")
    options = [
        "-std=c++17",
        "-O1",
        "-w",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-ftrivial-auto-var-init=pattern",
    ]
    line = [*(compiler() or []), *options, f"-I{SHIM}", "-shared", "-fPIC", str(written), "-o", str(library)]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:3000]
    return library


class Launch:
    """How a lowered kernel is started: its parameters, the extents of its grid and blocks, its shared memory."""

    def __init__(self, function: Any) -> None:
        import tvm
        import tvm_ffi
        from tvm import tirx

        self.parameters = list(function.params)
        self.extents: dict[str, Any] = {}
        self.shared_bytes = 0

        def extent(node: Any) -> None:
            if node.attr_key == "thread_extent":
                self.extents[str(node.node.thread_tag)] = node.value

        def allocation(node: Any) -> None:
            if node.buffer.scope() == "shared":
                size = int(np.prod([int(n) for n in node.buffer.shape]))
                self.shared_bytes += size * tvm.DataType(node.buffer.dtype).itemsize

        tvm_ffi.structural_walk(function.body, [(tirx.AttrStmt, extent), (tirx.AllocBuffer, allocation)])

    def sizes(self, level: str, values: Mapping[str, Any]) -> list[int]:
        """The extents of "blockIdx" or "threadIdx" in x, y and z, for values of the kernel's variables by name."""
        import tvm_ffi
        from tvm import sym, tirx

        def value(variable: Any) -> Any:
            return tirx.const(values[variable.name], variable.ty.dtype)

        found = [self.extents.get(f"{level}.{axis}", 1) for axis in "xyz"]
        return [int(sym.Analyzer().simplify(tvm_ffi.structural_map(n, (tirx.Var, value)))) for n in found]

    @property
    def threads(self) -> int:
        return int(np.prod(self.sizes("threadIdx", {})))


class Emulator:
    """Kernels lowered for a target and compiled for this machine's processor, called by name with NumPy arrays."""

    def __init__(self, functions: Mapping[str, Any], kind: str, folder: Path, hoist: bool = True) -> None:
        self.functions, self.kind = dict(functions), kind
        self.language = "metal" if kind == "metal" else "cuda"
        lowered = lower(functions, kind, hoist)
        self.launches = {str(variable.name_hint): Launch(f) for variable, f in lowered.functions.items()}
        self.source = text = source_of(lowered, self.language)
        if self.language == "metal":
            # TVM hands the Metal compiler one kernel at a time, each with this at its head.
            text = re.sub(r"union __TVMArgUnion \{.*?\};", "", text, flags=re.DOTALL)
            text = re.sub(r"^(\s+)threadgroup (\w+ \w+\[)", r"\1SHARED_MEMORY \2", text, flags=re.MULTILINE)
        starters = "".join(self._starter(name, text) for name in self.launches)
        self.library = ctypes.CDLL(str(compiled(text + starters, folder)))

    def _starter(self, name: str, text: str) -> str:
        """C++ that calls a kernel with its arguments taken from an array of pointers."""
        arguments = []
        for at, parameter in enumerate(self.launches[name].parameters):
            if hasattr(parameter.ty, "element_type"):
                arguments.append(f"({C_TYPES[str(parameter.ty.element_type.dtype)]} *)a[{at}]")
            elif self.language == "cuda":
                arguments.append(f"*({C_TYPES[str(parameter.ty.dtype)]} *)a[{at}]")
        if self.language == "metal":
            first = len(arguments)
            if first < len(self.launches[name].parameters):
                arguments.append(f"*({name}_args_t *)a[{first}]")
            signature = text[text.index(f"kernel void {name}(") :]
            for index in ("blockIdx", "threadIdx"):
                found = re.search(rf"(\w+) {index} \[\[", signature)
                given = "block_index" if index == "blockIdx" else "thread_index"
                axes = {"uint": "x", "uint2": "xy", "uint3": "xyz"}[found[1]] if found else "x"
                arguments.append(f"{{{', '.join(f'blocks::{given}.{axis}' for axis in axes)}}}")
        return (
            f"static void call_{name}(void **a) {{ {name}({', '.join(arguments)}); }}\n"
            f'extern "C" int start_{name}(void **a, const int *grid, const int *size, int falling) '
            f"{{ return blocks::run(call_{name}, a, grid, size, falling); }}\n"
        )

    def __call__(self, name: str, *arguments: Any) -> None:
        """Run the kernel twice on arrays and numbers, in the order of its parameters, and keep what it wrote."""
        arrays: dict[str, np.ndarray] = {}
        values: dict[str, Any] = {}
        for parameter, argument in zip(self.functions[name].params, arguments, strict=True):
            if not isinstance(argument, np.ndarray):
                values[parameter.name] = argument
                continue
            arrays[f"{parameter.name}_ptr"] = argument
            assert str(parameter.ty.dtype) == str(argument.dtype), (parameter.name, argument.dtype)
            values[getattr(parameter.ty.elem_offset, "name", "")] = 0
            for wanted, size in zip(parameter.ty.shape, argument.shape, strict=True):
                value = values.setdefault(wanted.name, size) if hasattr(wanted, "name") else size
                assert value == size, (parameter.name, argument.shape)
                assert not hasattr(wanted, "value") or int(wanted) == size, (parameter.name, argument.shape)
        results = [self._run(f"{name}_kernel", arrays, values, falling) for falling in (0, 1)]
        for array, first, second in zip(arrays.values(), *results, strict=True):
            assert first.tobytes() == second.tobytes(), f"{name} depends on the order of its threads"
            array[...] = first

    def _run(
        self, name: str, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], falling: int
    ) -> list[np.ndarray]:
        launch = self.launches[name]
        guarded = {key: np.full(2 * MARGIN + array.nbytes, 0xFF, np.uint8) for key, array in arrays.items()}
        for key, array in arrays.items():
            guarded[key][MARGIN:-MARGIN] = np.frombuffer(array.tobytes(), np.uint8)
        # Metal's numbers take eight bytes each, one after another.
        scalars = [parameter for parameter in launch.parameters if parameter.name not in guarded]
        numbers = np.zeros(max(1, len(scalars)), np.int64)
        pointers = (ctypes.c_void_p * max(1, len(launch.parameters)))()
        for at, parameter in enumerate(scalars):
            numbers[at : at + 1].view(str(parameter.ty.dtype))[0] = values[parameter.name]
        places = iter(range(numbers.ctypes.data, numbers.ctypes.data + numbers.nbytes, 8))
        for at, parameter in enumerate(launch.parameters):
            pointer = guarded.get(parameter.name)
            pointers[at] = next(places) if pointer is None else pointer.ctypes.data + MARGIN
        grid, size = ((ctypes.c_int * 3)(*launch.sizes(level, values)) for level in ("blockIdx", "threadIdx"))
        failure = getattr(self.library, f"start_{name}")(pointers, grid, size, falling)
        assert not failure, f"{name}: {FAILURES[failure]}"
        for key, whole in guarded.items():
            margins = np.concatenate([whole[:MARGIN], whole[-MARGIN:]])
            assert (margins == 0xFF).all(), f"{name} wrote outside {key}"
        return [guarded[key][MARGIN:-MARGIN].view(array.dtype).reshape(array.shape) for key, array in arrays.items()]
