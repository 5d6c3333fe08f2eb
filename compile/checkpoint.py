"""Reading a checkpoint in Hugging Face's layout tensor by tensor, through memory maps.

Format: https://github.com/huggingface/safetensors (an 8-byte length, a JSON header, the bytes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.errors import ArtifactError

DTYPES: Mapping[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: a file, the offset of its first byte, its dtype and shape."""

    file: Path
    offset: int
    dtype: Any
    shape: tuple[int, ...]


def index(folder: Path) -> dict[str, Entry]:
    """Every tensor of the checkpoint. Raises ArtifactError for missing, truncated or non-safetensors weights."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt")]
        problem = "holds its weights as pickle, which can run code" if pickles else "has no *.safetensors file"
        raise ArtifactError(f"{folder} {problem}", "Use a checkpoint whose weights are in safetensors.")
    found: dict[str, Entry] = {}
    for file in files:
        for name, entry in _read_header(file).items():
            if name in found:
                raise ArtifactError(f"{folder} holds the tensor {name} twice", "Remove the stale shard.")
            found[name] = entry
    return found


def load(entry: Entry) -> NDArray[Any]:
    """The tensor as a read-only memory map."""
    if 0 in entry.shape:
        return np.zeros(entry.shape, entry.dtype)
    return np.memmap(entry.file, entry.dtype, "r", entry.offset, entry.shape)


def _read_header(file: Path) -> dict[str, Entry]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        entries = {}
        for name, record in header.items():
            begin, end = record["data_offsets"]
            if record["dtype"] not in DTYPES:
                raise ArtifactError(
                    f"{file} holds {name} as {record['dtype']}", "Use a checkpoint with 16- or 32-bit float weights."
                )
            dtype, shape = DTYPES[record["dtype"]], tuple(record["shape"])
            if end - begin != int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
                raise ValueError(f"the size of {name} does not fit its shape")
            if 8 + length + end > size:
                raise ValueError(f"{name} ends beyond the end of the file")
            entries[name] = Entry(file, 8 + length + begin, dtype, shape)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file} is truncated or damaged ({error})", "Fetch or write that file again.") from None
    return entries
