"""What the weight files of a checkpoint say of themselves: names, dtypes and shapes, without reading a weight.

Format: https://github.com/huggingface/safetensors (an 8-byte length, a JSON header, the bytes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.errors import ArtifactError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
AGAIN = "Fetch or write that file again."


@dataclass(frozen=True)
class Weight:
    dtype: str
    shape: tuple[int, ...]


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint. Raises ArtifactError when one is missing, or when they are not safetensors."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{size:,} bytes where {8 + length + end:,} are announced")
        return {name: Weight(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{file} is truncated or damaged ({error})", AGAIN) from None


def read_headers(folder: Path) -> dict[str, Weight]:
    """The tensors of a checkpoint by name."""
    found: dict[str, Weight] = {}
    for file in shards(folder):
        for name, weight in read_header(file).items():
            if name in found:
                raise ArtifactError(f"{folder} holds the tensor {name} twice", "Remove the stale shard.")
            found[name] = weight
    return found
