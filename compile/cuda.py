"""Machine code for NVIDIA's GPUs: TVM's CUDA source, compiled for several architectures into one fatbin.

nvcc may come from a CUDA installation or from PyPI (`pip install nvidia-cuda-nvcc nvidia-cuda-cccl`, which find all
they need beside themselves). No GPU and no driver is needed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm_ffi

from toolchain.contracts import tvm_package
from toolchain.contracts.errors import SettingsError, StageError

CALLBACK, CREATE = "tvm_callback_cuda_compile", "ffi.Module.create.cuda"
DRIVER = "libcuda.so.1"
# What TVM's CUDA runtime wants of the driver to be loaded; while compiling it calls none of them.
DRIVER_FUNCTIONS = (
    *("cuDeviceGetName", "cuFuncSetAttribute", "cuGetErrorName", "cuGetErrorString", "cuLaunchKernelEx"),
    *("cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload", "cuTensorMapEncodeTiled"),
)
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def missing() -> str | None:
    """What machine code cannot be made without on this machine; None when all is there."""
    if nvcc() is None:
        return "nvcc (pip install nvidia-cuda-nvcc nvidia-cuda-cccl)"
    if not shutil.which("g++") and not shutil.which("cl"):
        return "a C++ compiler for nvcc"
    return None


def nvcc() -> Path | None:
    """CUDA's compiler, of the system or of PyPI's packages."""
    found = shutil.which("nvcc")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else None
    names = (path for root in roots or () for path in sorted(Path(root).glob("c*/bin/nvcc*")))
    return next((path for path in names if path.name in ("nvcc", "nvcc.exe")), None)


def nvcc_version() -> str:
    """What nvcc calls itself, in one line; "none" where machine code cannot be made."""
    if missing():
        return "none"
    told = subprocess.run([str(nvcc()), "--version"], check=False, capture_output=True, text=True).stdout
    return (told.splitlines() or ["unknown"])[-1]


def check_archs(archs: Sequence[str]) -> None:
    """Raise SettingsError for an architecture that the installed nvcc does not know; without nvcc none is known."""
    if missing():
        return
    told = subprocess.run([str(nvcc()), "--list-gpu-arch"], check=False, capture_output=True, text=True).stdout
    known = [f"sm_{line.removeprefix('compute_')}" for line in told.split() if line.startswith("compute_")]
    unknown = [arch for arch in archs if known and arch.rstrip("a") not in known]
    if unknown:
        raise SettingsError(f"nvcc does not know --arch {unknown[0]}", f"It knows {', '.join(known)}.")


@contextmanager
def fatbins(archs: Sequence[str]) -> Iterator[None]:
    """While this lasts, TVM's CUDA modules hold machine code for `archs`, and PTX of the newest for GPUs yet to come.

    Where something is missing for that, they hold their source, which a GPU's machine then compiles at each start.
    Raises StageError when nvcc fails.
    """
    if missing():
        # Without its CUDA runtime TVM writes the source as it is; with it, it would compile for this machine's GPU.
        with _global_function(CREATE, None):
            yield
        return
    _load_runtime()
    failures: list[StageError] = []

    def compile_it(source: str) -> bytes:
        try:
            return compile_source(source, archs)
        except StageError as error:
            failures.append(error)
            raise

    with _global_function(CALLBACK, compile_it):
        try:
            yield
        except Exception:  # TVM makes an error of its own of nvcc's on the way; others go on as they are
            if failures:
                raise failures[0] from None
            raise


@contextmanager
def _global_function(name: str, function: Callable[..., Any] | None) -> Iterator[None]:
    """One of TVM's functions by name replaced, or taken away."""
    before = tvm_ffi.get_global_func(name, allow_missing=True)
    if function is not None:
        tvm_ffi.register_global_func(name, function, override=True)
    elif before is not None:
        tvm_ffi.remove_global_func(name)
    try:
        yield
    finally:
        if before is not None:
            tvm_ffi.register_global_func(name, before, override=True)
        elif function is not None:
            tvm_ffi.remove_global_func(name)


def gencodes(archs: Sequence[str]) -> list[str]:
    """nvcc's options for machine code of each of `archs`, such as sm_90a, and for PTX of the newest.

    What an architecture has only for itself, the a behind its name, no PTX for later ones may use.
    """
    numbers = sorted((arch.removeprefix("sm_") for arch in archs), key=lambda number: (int(number.rstrip("a")), number))
    newest = numbers[-1].rstrip("a")
    machine_code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*machine_code, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def compile_source(source: str, archs: Sequence[str]) -> bytes:
    """The fatbin of a CUDA source. Raises StageError with the compiler's own words."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "kernels.cu"), Path(folder, "kernels.fatbin")
        given.write_text(source, encoding="utf-8")
        line = [str(nvcc()), "--fatbin", "-O3", *gencodes(archs), "-o", str(made), str(given)]
        result = subprocess.run(line, check=False, capture_output=True, text=True)
        if result.returncode:
            words = " ".join((result.stderr or result.stdout).split())[-500:]
            raise StageError(f"nvcc failed: {words}", f"Check that this works: {line[0]} --version")
        return made.read_bytes()


def _load_runtime() -> None:
    """Load TVM's CUDA runtime, which keeps machine code; without a driver, over a stand-in that has no GPU."""
    if tvm_ffi.get_global_func(CREATE, allow_missing=True) is not None:
        return
    runtime = tvm_package.find().folder / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        _load_stand_in()
    toolkit = nvcc()
    for path in sorted(toolkit.parent.parent.glob("lib*/libcudart.so.*")) if toolkit else []:
        ctypes.CDLL(str(path), os.RTLD_GLOBAL)
    try:
        ctypes.CDLL(str(runtime))
    except OSError as error:
        raise StageError(
            f"TVM's CUDA runtime cannot be loaded ({error})", "Install TVM and CUDA of one release."
        ) from None


def _load_stand_in() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "driver.c"), Path(folder, DRIVER)
        source.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in DRIVER_FUNCTIONS))
        # The compiler that nvcc needs as well, so `missing` has asked for it.
        options = ["-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{DRIVER}", "-o", str(library), str(source)]
        subprocess.run(["g++", *options], check=True, capture_output=True)
        ctypes.CDLL(str(library), os.RTLD_GLOBAL)
