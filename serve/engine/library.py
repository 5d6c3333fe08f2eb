"""Loading a compiled library and its weights, on TVM's runtime alone: neither the compiler nor a linker is needed.

The library says in its metadata which parameters it wants and how each is packed (see `compile/library.py`), so
nothing here knows a model or a kernel's layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts import library_metadata, object_archive, tensor_cache, tvm_package
from toolchain.contracts.errors import ArtifactError, MissingExtra
from toolchain.contracts.extras import missing
from toolchain.contracts.targets import Device, parse_target, unfit

POOLED_ALLOCATOR = 2
ALIGNMENT = 64
EXISTS = 0  # the attribute of a device that says whether there is one
# DLPack's numbers of the kinds of devices.
DEVICES: dict[Device, int] = {"cpu": 1, "cuda": 2, "vulkan": 7, "metal": 8}
RUNTIMES = ("libtvm_runtime.so", "libtvm_runtime.dylib", "tvm_runtime.dll", "libtvm_runtime.dll")


class Library:
    """A library on its device, with the parameters of a model in the order in which its functions take them."""

    def __init__(self, path: Path, params: Path) -> None:
        """Load the library at `path` and the weights in MLC's format in `params`.

        Raises ArtifactError when they do not fit each other or this machine, MissingExtra without TVM's runtime.
        """
        self.ffi = _start_runtime()
        self._path = path
        module = _load_module(self.ffi, path)
        self.vm = _machine(module, path, (DEVICES["cpu"],))
        metadata = json.loads(str(self.vm["_metadata"]()))
        _refuse_foreign(metadata, path)
        self.metadata: dict[str, Any] = metadata
        device = parse_target(metadata["target"]).device
        self.device = DEVICES[device]
        if device != "cpu":
            self._refuse_missing(device)
            # The processor beside the GPU keeps what is no tensor of the model.
            self.vm = _machine(module, path, (self.device, DEVICES["cpu"]))
        self.parameters = self._load_parameters(params)

    @property
    def vocab_size(self) -> int:
        return int(self.metadata["vocab_size"])

    @property
    def context_size(self) -> int:
        return int(self.metadata["context_window_size"])

    @property
    def most_tokens(self) -> int:
        """How many tokens one call takes at most."""
        return int(self.metadata["prefill_chunk_size"])

    def tensor(self, values: NDArray[Any]) -> Any:
        """A copy of `values` on the library's device."""
        return self._moved(self.ffi.from_dlpack(aligned(values)), self.device)

    def array(self, tensor: Any) -> NDArray[Any]:
        """A copy of a tensor of the library's, whose memory is used again by the next call."""
        return np.array(np.from_dlpack(self._moved(tensor, DEVICES["cpu"])))

    def function(self, name: str) -> Any:
        """A function of TVM's runtime."""
        return self.ffi.get_global_func(name)

    def _moved(self, tensor: Any, device: int) -> Any:
        """`tensor` on `device`, where the library's is none other than the processor as it is."""
        if self.device == DEVICES["cpu"]:
            return tensor
        return self.function("vm.builtin.to_device")(tensor, device, 0)

    def _refuse_missing(self, device: Device) -> None:
        if not self.function("runtime.GetDeviceAttr")(self.device, 0, EXISTS):
            raise ArtifactError(f"{self._path} is for {device}, and TVM finds none here", "Use another target.")

    def _load_parameters(self, folder: Path) -> list[Any]:
        wanted = {record["name"]: record for record in self.metadata["params"]}
        stored = tensor_cache.read(folder)
        for name, tensor in stored.items():
            record = wanted.get(name)
            if record is None:
                raise ArtifactError(
                    f"{folder} holds {name}, which {self._path.name} does not know", "Compile them together."
                )
            if list(tensor.shape) != record["shape"] or tensor.dtype != record["dtype"]:
                raise ArtifactError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} in {folder}, and "
                    f"{record['dtype']} {record['shape']} in {self._path.name}",
                    "Compile them together.",
                )
        missing = wanted.keys() - stored.keys()
        if missing:
            raise ArtifactError(
                f"{folder} lacks the weights {', '.join(sorted(missing)[:3])}", "Compile them together."
            )
        return [self._load_parameter(stored[name], record["packer"]) for name, record in wanted.items()]

    def _load_parameter(self, place: tensor_cache.Stored, packer: str | None) -> Any:
        value = self.tensor(np.memmap(place.file, place.dtype, "r", place.offset, place.shape))
        return self.vm[packer](value) if packer else value


def zeros(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeroed memory at an address that vector instructions may assume to be aligned."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def aligned(source: NDArray[Any]) -> NDArray[Any]:
    """A copy at such an address."""
    copy = zeros(source.shape, source.dtype.name)
    copy[...] = source
    return copy


@cache
def _start_runtime() -> Any:
    """Load TVM's runtime libraries and give its foreign function interface, the module `tvm_ffi`."""
    # TVM reads this once, and its own default is one thread on many machines.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TVM_NUM_THREADS", str(cores))
    folder = tvm_package.find().folder
    files = [where / name for where in (folder / "lib", folder) for name in RUNTIMES]
    found = next((path for path in files if path.is_file()), None)
    if found is None:
        raise MissingExtra(f"{folder} holds no runtime of TVM", "Run: pip install --force-reinstall apache-tvm")
    tvm_ffi = _import_without_torch()
    ctypes.CDLL(str(found), getattr(os, "RTLD_GLOBAL", 0))
    # The runtimes of GPUs lie in libraries of their own, and CUDA's wants CUDA's own runtime, which PyPI has too. One
    # whose driver is not here cannot be loaded.
    cuda = folder.parent.glob("nvidia/cu*/lib/libcudart.so.*")
    for path in [*sorted(cuda), *sorted(found.parent.glob("libtvm_runtime_*"))]:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path), getattr(os, "RTLD_GLOBAL", 0))
    return tvm_ffi


def _import_without_torch() -> Any:
    """The module `tvm_ffi`, which loads torch where that is installed: a second and memory that nothing here needs."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it then fails, as if it were not there
    try:
        import tvm_ffi
    finally:
        if absent:
            del sys.modules["torch"]
    return tvm_ffi


def _load_module(ffi: Any, path: Path) -> Any:
    try:
        if path.suffix != ".a":
            return ffi.load_module(str(path))
        objects = object_archive.read(path)
        from tvm_ffi_orcjit import default_session

        # Without a `cxx` the loader would look for a C++ compiler, whose runtime our objects do not need.
        return default_session().load_module(list(objects.values()), cxx=os.devnull)
    except ImportError:
        raise missing("apache-tvm-ffi-orcjit") from None
    except (OSError, RuntimeError, AttributeError, ValueError) as error:
        raise _unloadable(path, error) from None


def _machine(module: Any, path: Path, devices: tuple[int, ...]) -> Any:
    """A virtual machine that runs the library on `devices`."""
    try:
        machine = module["vm_load_executable"]()
    except (RuntimeError, AttributeError, ValueError) as error:
        raise _unloadable(path, error) from None
    machine["vm_initialization"](*(number for device in devices for number in (device, 0, POOLED_ALLOCATOR)))
    return machine


def _unloadable(path: Path, error: Exception) -> ArtifactError:
    reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
    return ArtifactError(f"{path} cannot be loaded ({reason})", "Compile the bundle again.")


def _refuse_foreign(metadata: dict[str, Any], library: Path) -> None:
    """Raise ArtifactError, before any kernel runs, for a library that was made for something else."""
    again = "Compile the bundle again on this machine."
    if metadata.get("metadata_version") != library_metadata.VERSION:
        raise ArtifactError(f"{library} was compiled by another version of fimble", again)
    reason = unfit(parse_target(metadata["target"]))
    if reason:
        raise ArtifactError(f"{library} cannot run here: {reason}", again)
    release = tvm_package.find().release
    if metadata["tvm"] != release:
        raise ArtifactError(f"{library} was compiled by TVM {metadata['tvm']}, and {release} is installed", again)
