"""The weight files of a checkpoint in Hugging Face's layout: which they are, and what each says of its tensors.

Only headers are read, never a weight. Format: https://github.com/huggingface/safetensors (an 8-byte little-endian
length, a JSON header, the bytes).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import ArtifactError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
AGAIN = "Fetch or write that file again."
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Weight:
    """A tensor's place: file, offset of the first byte; its dtype by safetensors' name, its shape."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint. Raises ArtifactError when one is missing, or when they are not safetensors."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{index} cannot be read ({error})", AGAIN) from None
        for name in names:
            if Path(name).name != name:
                raise ArtifactError(f"{index} names a file outside its folder: {name}", AGAIN)
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} lacks the shard {name}", AGAIN)
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise ArtifactError(
            f"{folder} holds its weights as pickle, which can run code", "Use weights in safetensors, or convert these."
        )
    raise ArtifactError(f"{folder} has neither {SINGLE} nor {INDEX}", "Name a checkpoint in Hugging Face's layout.")


def read_header(file: Path) -> dict[str, Weight]:
    """The tensors of one file by name. Raises ArtifactError when it is truncated or damaged."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        found = {name: _weight(name, entry, file, start, size) for name, entry in header.items()}
        ends = (start + entry["data_offsets"][1] for entry in header.values())
        if max(ends, default=start) != size:
            raise ValueError(f"its {size:,} bytes are not those announced")
        return found
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{file} is truncated or damaged ({error})", AGAIN) from None


def read_headers(folder: Path) -> dict[str, Weight]:
    """The tensors of a checkpoint by name. Raises ArtifactError as `shards` and `read_header` do."""
    found: dict[str, Weight] = {}
    for file in shards(folder):
        for name, weight in read_header(file).items():
            if name in found:
                raise ArtifactError(f"{folder} holds the tensor {name} twice", "Remove the stale shard.")
            found[name] = weight
    return found


def _weight(name: str, entry: dict[str, Any], file: Path, start: int, size: int) -> Weight:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    dtype, shape = str(entry["dtype"]), tuple(int(axis) for axis in entry["shape"])
    if dtype in ITEM_BYTES and end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"the size of {name} does not fit its shape")
    if begin < 0 or end < begin or start + end > size:
        raise ValueError(f"{name} ends beyond the end of the file")
    return Weight(file, start + begin, dtype, shape)
