"""MLC's weights on disk: where each tensor lies, by the index `tensor-cache.json` and the shards that it names."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.errors import ArtifactError

INDEX = "tensor-cache.json"
ITEM_BYTES = {"uint32": 4, "float32": 4, "float16": 2, "int8": 1, "uint8": 1}
AGAIN = "Compile the bundle again."


@dataclass(frozen=True)
class Stored:
    """A tensor's place: file and offset in bytes; its dtype by NumPy's name, and its shape."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


def read(folder: Path) -> dict[str, Stored]:
    """The tensors by name, in the order of the index.

    Raises ArtifactError for an index that cannot be read, names a file outside `folder`, does not fit its shards, or
    holds a tensor in a form other than its plain bytes.
    """
    path, found = folder / INDEX, dict[str, Stored]()
    try:
        for shard in json.loads(path.read_text(encoding="utf-8"))["records"]:
            file = folder / shard["dataPath"]
            if file.resolve().parent != folder.resolve():
                raise ArtifactError(f"{path} names the file {shard['dataPath']} outside its folder", AGAIN)
            size = file.stat().st_size
            if size != shard["nbytes"]:
                raise ArtifactError(f"{file} has {size:,} bytes, its index says {shard['nbytes']:,}", AGAIN)
            for record in shard["records"]:
                stored = Stored(file, int(record["byteOffset"]), record["dtype"], tuple(map(int, record["shape"])))
                length = math.prod(stored.shape) * ITEM_BYTES[stored.dtype]
                if length != record["nbytes"] or stored.offset < 0 or stored.offset + length > size:
                    raise ArtifactError(f"{record['name']} does not fit its place in {file}", AGAIN)
                if record["name"] in found:
                    raise ArtifactError(f"{path} names {record['name']} twice", AGAIN)
                found[record["name"]] = stored
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{path} or a shard that it names cannot be read ({reason})", AGAIN) from None
    return found
