"""MLC's weights on disk: `params_shard_N.bin` files and their index `tensor-cache.json`.

Byte for byte what `tvm.contrib.tvmjs.dump_tensor_cache` of TVM 0.27 writes with its 32 MiB shards, with one exception:
MLC rounds float32 tensors to bfloat16 on disk, here they stay float32 (format "raw", which its readers know).

Where each byte goes follows from names, shapes and dtypes. So the shards are planned first, then filled in any order,
and each that is whole survives an interruption.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.contracts.tensor_cache import INDEX

SHARD_BYTES = 32 << 20
PART = ".part"


@dataclass(frozen=True)
class Record:
    """A tensor in a shard: `nbytes` from the byte `offset` on."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    offset: int


@dataclass(frozen=True)
class Shard:
    """A file of `nbytes`, and what lies in it."""

    file: str
    nbytes: int
    records: tuple[Record, ...]


def plan(tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> list[Shard]:
    """The shards of tensors, given in their order as name, shape and dtype (NumPy's name of it)."""
    shards: list[Shard] = []
    pending, filled = list[Record](), 0

    def cut(records: Sequence[Record]) -> None:
        size = sum(record.nbytes for record in records)
        shards.append(Shard(f"params_shard_{len(shards)}.bin", size, tuple(records)))

    for name, shape, dtype in tensors:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if filled + size >= SHARD_BYTES:
            if 2 * size >= SHARD_BYTES:
                # A large tensor gets a shard of its own at once; what is pending waits for the next cut.
                cut([Record(name, shape, dtype, size, 0)])
                continue
            if pending:
                cut(pending)
                pending, filled = [], 0
        pending.append(Record(name, shape, dtype, size, filled))
        filled += size
    if pending:
        cut(pending)
    return shards


class ShardFolder:
    """A folder in which planned shards are filled, by many threads and across interruptions.

    A shard in the making is called `<shard>.part`. When its last byte is there it is synced to the disk and renamed to
    `<shard>.<md5>`, so one rename records both that it is whole and what its index entry needs. On opening the folder
    such shards are kept, and everything else in it is removed.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards
        self._md5: dict[str, str] = {}
        self._lock = threading.Lock()
        sizes = {shard.file: shard.nbytes for shard in shards}
        for path in folder.iterdir():
            file, _, md5 = path.name.rpartition(".")
            if re.fullmatch("[0-9a-f]{32}", md5) and path.stat().st_size == sizes.get(file):
                self._md5[file] = md5
            else:
                path.unlink()
        self._missing = {file: size for file, size in sizes.items() if file not in self._md5}
        for file in self._missing:
            (folder / (file + PART)).touch()

    @property
    def missing_bytes(self) -> int:
        """How much is yet to be written."""
        return sum(self._missing.values())

    def is_whole(self, shard: Shard) -> bool:
        return shard.file in self._md5

    def write(self, shard: Shard, offset: int, data: NDArray[Any]) -> None:
        """Put `data` at the byte `offset` of a shard that is not whole. Each byte is to be written once."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        with (self.folder / (shard.file + PART)).open("r+b") as file:
            file.seek(offset)
            file.write(flat)
        with self._lock:
            self._missing[shard.file] -= len(flat)
            complete = self._missing[shard.file] == 0
        if complete:
            self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        path = self.folder / (shard.file + PART)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        path.rename(self.folder / f"{shard.file}.{md5}")
        with self._lock:
            self._md5[shard.file] = md5
            del self._missing[shard.file]

    def discard_parts(self) -> None:
        """Remove the shards that are not whole."""
        for path in self.folder.glob("*" + PART):
            path.unlink()

    def publish(self, out: Path, metadata: Mapping[str, Any]) -> None:
        """Give every shard, all being whole, its name in `out`, and write the index there last.

        The folder keeps its shards too, as hard links, for when `out` is lost to an interruption later on. Where a
        file system has no hard links, they are moved.
        """
        for shard in self.shards:
            whole, target = self.folder / f"{shard.file}.{self._md5[shard.file]}", out / shard.file
            target.unlink(missing_ok=True)
            try:
                os.link(whole, target)
            except OSError:
                shutil.move(whole, target)
        records = [_describe(shard, self._md5[shard.file]) for shard in self.shards]
        partial = out / (INDEX + PART)
        partial.write_text(json.dumps({"metadata": dict(metadata), "records": records}, indent=4), encoding="utf-8")
        partial.replace(out / INDEX)


def _describe(shard: Shard, md5: str) -> dict[str, Any]:
    """A shard's entry in the index, keys in TVM's order."""
    records = [
        {
            "name": record.name,
            "shape": list(record.shape),
            "dtype": record.dtype,
            "format": "raw" if record.dtype == "float32" else "f32-to-bf16",
            "nbytes": record.nbytes,
            "byteOffset": record.offset,
        }
        for record in shard.records
    ]
    return {
        "dataPath": shard.file,
        "format": "raw-shard",
        "nbytes": shard.nbytes,
        "records": records,
        "md5sum": md5,
    }
