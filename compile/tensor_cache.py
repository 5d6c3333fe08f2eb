"""MLC's weights on disk: `params_shard_N.bin` files and their index `tensor-cache.json`.

Byte for byte what `tvm.contrib.tvmjs.dump_tensor_cache` of TVM 0.27 writes with its 32 MiB shards, with one exception:
MLC rounds float32 tensors to bfloat16 on disk, here they stay float32 (format "raw", which its readers know).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDEX = "tensor-cache.json"
SHARD_BYTES = 32 << 20


def write(folder: Path, tensors: Iterable[tuple[str, NDArray[Any]]], metadata: Mapping[str, Any]) -> None:
    """Write named tensors in their order, one shard at a time in memory. `metadata` goes into the index as it is."""
    shards: list[dict[str, Any]] = []
    pending, records = bytearray(), list[dict[str, Any]]()
    for name, tensor in tensors:
        data = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
        record = {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
            "format": "raw" if tensor.dtype == np.float32 else "f32-to-bf16",
            "nbytes": len(data),
        }
        if len(pending) + len(data) >= SHARD_BYTES:
            if 2 * len(data) >= SHARD_BYTES:
                # A large tensor gets a shard of its own at once; what is pending waits for the next cut.
                shards.append(_write_shard(folder, len(shards), data, [record | {"byteOffset": 0}]))
                continue
            if pending:
                shards.append(_write_shard(folder, len(shards), pending, records))
                pending, records = bytearray(), []
        records.append(record | {"byteOffset": len(pending)})
        pending += data
    if pending:
        shards.append(_write_shard(folder, len(shards), pending, records))
    text = json.dumps({"metadata": dict(metadata), "records": shards}, indent=4)
    (folder / INDEX).write_text(text, encoding="utf-8")


def _write_shard(
    folder: Path, number: int, data: bytearray | memoryview, records: list[dict[str, Any]]
) -> dict[str, Any]:
    name = f"params_shard_{number}.bin"
    (folder / name).write_bytes(data)
    return {
        "dataPath": name,
        "format": "raw-shard",
        "nbytes": len(data),
        "records": records,
        "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
    }
