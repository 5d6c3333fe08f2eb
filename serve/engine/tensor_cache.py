"""Reading MLC's weights: `tensor-cache.json` and the shards it names, as memory maps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.errors import ArtifactError

INDEX = "tensor-cache.json"


def tensors(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each tensor's name and a read-only view of it, in the order of the index.

    Raises ArtifactError for an index that cannot be read, names a file outside `folder`, or does not fit its shards.
    """
    path = folder / INDEX
    again = "Compile the bundle again."
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["records"]
        for shard in shards:
            file = folder / shard["dataPath"]
            if file.resolve().parent != folder.resolve():
                raise ArtifactError(f"{path} names the file {shard['dataPath']} outside its folder", again)
            data = np.memmap(file, np.uint8, "r")
            if len(data) != shard["nbytes"]:
                raise ArtifactError(f"{file} has {len(data)} bytes, its index says {shard['nbytes']}", again)
            for record in shard["records"]:
                begin, size = record["byteOffset"], record["nbytes"]
                if begin < 0 or begin + size > len(data):
                    raise ArtifactError(f"{record['name']} lies outside {file}", again)
                yield record["name"], data[begin : begin + size].view(record["dtype"]).reshape(record["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} or a shard that it names cannot be read ({error})", again) from None
