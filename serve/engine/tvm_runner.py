"""The runner that runs compiled libraries, on TVM's runtime alone: the compiler is not loaded.

The library says in its metadata which parameters it wants, how each is packed, and what its KV cache looks like
(see `compile/library.py`), so nothing here knows a model or a kernel's layout.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine import tensor_cache
from toolchain.contracts.errors import ArtifactError, MissingExtra

CPU, POOLED_ALLOCATOR = 1, 2
ALIGNMENT = 64
METADATA_VERSION = 1
RUNTIMES = ("libtvm_runtime.so", "libtvm_runtime.dylib", "tvm_runtime.dll")


class TvmRunner:
    """One sequence on the CPU; see `serve/engine/runner.py` for the face."""

    def __init__(self, library: Path, params: Path, context_size: int | None = None) -> None:
        """Load a library and the weights in MLC's format in `params`.

        Raises ArtifactError when they do not fit each other, MissingExtra without TVM's runtime.
        """
        ffi = _start_runtime()
        self._ffi = ffi
        self._vm = _load_vm(ffi, library)
        metadata = json.loads(str(self._vm["_metadata"]()))
        if metadata.get("metadata_version") != METADATA_VERSION:
            raise ArtifactError(f"{library} was compiled by another version of fimble", "Compile the bundle again.")
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
        loaded: dict[str, Any] = {}
        for name, tensor in tensor_cache.tensors(folder):
            record = wanted.get(name)
            if record is None:
                raise ArtifactError(
                    f"{folder} holds {name}, which {library.name} does not know", "Compile them together."
                )
            if list(tensor.shape) != record["shape"] or tensor.dtype.name != record["dtype"]:
                raise ArtifactError(
                    f"{name} is {tensor.dtype.name} {list(tensor.shape)} in {folder}, and "
                    f"{record['dtype']} {record['shape']} in {library.name}",
                    "Compile them together.",
                )
            value = self._ffi.from_dlpack(_aligned(tensor))
            loaded[name] = self._vm[record["packer"]](value) if record["packer"] else value
        missing = wanted.keys() - loaded.keys()
        if missing:
            raise ArtifactError(
                f"{folder} lacks the weights {', '.join(sorted(missing)[:3])}", "Compile them together."
            )
        return [loaded[name] for name in wanted]

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
    spec = importlib.util.find_spec("tvm")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or []) if spec] if spec else []
    files = [path for folder in folders for where in (folder / "lib", folder) for path in map(where.joinpath, RUNTIMES)]
    found = next((path for path in files if path.is_file()), None)
    if found is None or importlib.util.find_spec("tvm_ffi") is None:
        raise MissingExtra("TVM's runtime is not installed", "Run: pip install 'fimble[serve]'")
    import tvm_ffi

    ctypes.CDLL(str(found), ctypes.RTLD_GLOBAL)
    return tvm_ffi


def _load_vm(ffi: Any, library: Path) -> Any:
    try:
        vm = ffi.load_module(str(library))["vm_load_executable"]()
    except (OSError, RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"{library} cannot be loaded ({reason})", "Compile the bundle again on this machine."
        ) from None
    vm["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
    return vm


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
