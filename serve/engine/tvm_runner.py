"""The runner that runs compiled libraries, on TVM's runtime alone: neither the compiler nor a linker is needed.

The library says in its metadata which parameters it wants, how each is packed, and what its KV cache looks like
(see `compile/library.py`), so nothing here knows a model or a kernel's layout.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts import object_archive, tensor_cache, tvm_package
from toolchain.contracts.errors import ArtifactError, MissingExtra
from toolchain.contracts.targets import parse_target, unfit

CPU, POOLED_ALLOCATOR = 1, 2
ALIGNMENT = 64
METADATA_VERSION = 2
RUNTIMES = ("libtvm_runtime.so", "libtvm_runtime.dylib", "tvm_runtime.dll", "libtvm_runtime.dll")


class TvmRunner:
    """One sequence on the CPU; see `serve/engine/runner.py` for the face."""

    def __init__(self, library: Path, params: Path, context_size: int | None = None) -> None:
        """Load a library and the weights in MLC's format in `params`.

        Raises ArtifactError when they do not fit each other, MissingExtra without TVM's runtime.
        """
        ffi = _start_runtime()
        self._ffi = ffi
        self._vm = _load_vm(library)
        metadata = json.loads(str(self._vm["_metadata"]()))
        _refuse_foreign(metadata, library)
        self.metadata: dict[str, Any] = metadata
        self.vocab_size = int(metadata["vocab_size"])
        self.context_size = min(context_size or metadata["context_window_size"], metadata["context_window_size"])
        self._parameters = self._load_parameters(params, library)
        self._cache = self._make_cache()
        self._prefill, self._decode, self._score = (self._vm[name] for name in ("prefill", "decode", "score"))

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Write `ids` to the cache from `position` on; the logits `[V]` after the last of them."""
        self._refuse_unfit(ids, position)
        logits = np.zeros((1, self.vocab_size), np.float32)
        for part, at in self._parts(ids, position):
            logits = self._run(self._decode if len(part) == 1 else self._prefill, part, at)
        last: NDArray[np.float32] = logits[0]
        return last

    def score(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Like `forward`, with the logits `[len(ids), V]` after each."""
        self._refuse_unfit(ids, position)
        return np.concatenate([self._run(self._score, part, at) for part, at in self._parts(ids, position)])

    def _parts(self, ids: Sequence[int], position: int) -> Iterator[tuple[Sequence[int], int]]:
        """As many tokens at a time as the library takes, each part with its position."""
        most = self.metadata["prefill_chunk_size"]
        for begin in range(0, len(ids), most):
            yield ids[begin : begin + most], position + begin

    def _refuse_unfit(self, ids: Sequence[int], position: int) -> None:
        if not ids or position < 0 or position + len(ids) > self.context_size:
            raise ValueError(f"{len(ids)} tokens at {position} do not fit a context of {self.context_size}")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise ValueError(f"a token id lies outside the vocabulary of {self.vocab_size}")

    def _run(self, function: Any, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        tokens = self._ffi.from_dlpack(_aligned(np.asarray(ids, np.int32)))
        logits: Any = function(tokens, self._ffi.Shape((position,)), *self._cache, self._parameters)
        # A copy: the library's memory is used again by the next call.
        return np.array(np.from_dlpack(logits))

    def _load_parameters(self, folder: Path, library: Path) -> list[Any]:
        wanted = {record["name"]: record for record in self.metadata["params"]}
        stored = tensor_cache.read(folder)
        for name, tensor in stored.items():
            record = wanted.get(name)
            if record is None:
                raise ArtifactError(
                    f"{folder} holds {name}, which {library.name} does not know", "Compile them together."
                )
            if list(tensor.shape) != record["shape"] or tensor.dtype != record["dtype"]:
                raise ArtifactError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} in {folder}, and "
                    f"{record['dtype']} {record['shape']} in {library.name}",
                    "Compile them together.",
                )
        missing = wanted.keys() - stored.keys()
        if missing:
            raise ArtifactError(
                f"{folder} lacks the weights {', '.join(sorted(missing)[:3])}", "Compile them together."
            )
        return [self._load_parameter(stored[name], record["packer"]) for name, record in wanted.items()]

    def _load_parameter(self, stored: tensor_cache.Stored, packer: str | None) -> Any:
        value = self._ffi.from_dlpack(_aligned(np.memmap(stored.file, stored.dtype, "r", stored.offset, stored.shape)))
        return self._vm[packer](value) if packer else value

    def _make_cache(self) -> tuple[Any, Any]:
        """Keys and values of all layers, zeroed, for `context_size` tokens."""
        description = self.metadata["cache"]
        blocks = -(-self.context_size // description["block"])
        shapes = ([blocks if axis == "blocks" else axis for axis in description[name]] for name in ("keys", "values"))
        keys, values = (self._ffi.from_dlpack(_zeros(shape, description["dtype"])) for shape in shapes)
        return keys, values


@cache
def _start_runtime() -> Any:
    """Load TVM's runtime library and give its foreign function interface, the module `tvm_ffi`."""
    # TVM reads this once, and its own default is one thread on many machines.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TVM_NUM_THREADS", str(cores))
    folder = tvm_package.find().folder
    files = [where / name for where in (folder / "lib", folder) for name in RUNTIMES]
    found = next((path for path in files if path.is_file()), None)
    if found is None:
        raise MissingExtra(f"{folder} holds no runtime of TVM", "Run: pip install --force-reinstall apache-tvm")
    import tvm_ffi

    ctypes.CDLL(str(found), getattr(os, "RTLD_GLOBAL", 0))
    return tvm_ffi


def _load_vm(library: Path) -> Any:
    objects = object_archive.read(library)
    try:
        from tvm_ffi_orcjit import default_session
    except ImportError:
        raise MissingExtra("apache-tvm-ffi-orcjit is not installed", "Run: pip install 'fimble[serve]'") from None
    try:
        # Without a `cxx` the loader would look for a C++ compiler, whose runtime our objects do not need.
        module = default_session().load_module(list(objects.values()), cxx=os.devnull)
        vm = module["vm_load_executable"]()
    except (OSError, RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{library} cannot be loaded ({reason})", "Compile the bundle again.") from None
    vm["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
    return vm


def _refuse_foreign(metadata: dict[str, Any], library: Path) -> None:
    """Raise ArtifactError, before any kernel runs, for a library that was made for something else."""
    again = "Compile the bundle again on this machine."
    if metadata.get("metadata_version") != METADATA_VERSION:
        raise ArtifactError(f"{library} was compiled by another version of fimble", again)
    reason = unfit(parse_target(metadata["target"]))
    if reason:
        raise ArtifactError(f"{library} cannot run here: {reason}", again)
    release = tvm_package.find().release
    if metadata["tvm"] != release:
        raise ArtifactError(f"{library} was compiled by TVM {metadata['tvm']}, and {release} is installed", again)


def _zeros(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Zeroed memory at an address that vector instructions may assume to be aligned."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _aligned(source: NDArray[Any]) -> NDArray[Any]:
    copy = _zeros(source.shape, source.dtype.name)
    copy[...] = source
    return copy
