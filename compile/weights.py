"""A checkpoint's weights to MLC's: renamed, joined, quantized, and written in blocks of rows by every core.

Memory does not grow with the model: a block is read through a memory map, and its words and scales go straight to
their places in the shards. What an interrupted conversion finished is there for the next.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile import checkpoint, disk, quantization, tensor_cache
from compile.architectures import FAMILIES
from compile.schemes import Scheme
from compile.tensor_cache import Shard, ShardFolder
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress
from toolchain.contracts.weight_files import Weight

RECIPE = 1
"""Goes up when the same checkpoint and scheme give other bytes."""

BLOCK_WEIGHTS = 1 << 20
"""Some 10 MB of memory a thread, and a millisecond of work."""


@dataclass(frozen=True)
class Tensor:
    """A tensor by MLC's name, and the checkpoint's tensors by name that make it, one below the other."""

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, Weight]

    def stored(self, scheme: Scheme) -> list[tuple[str, tuple[int, ...], str]]:
        """Name, shape and dtype of what is on disk for it: words and scales of a quantized matrix, else itself."""
        if not scheme.quantized or len(self.shape) != 2:
            return [(self.name, self.shape, scheme.dtype)]
        words, scales = scheme.stored_shapes(self.shape)
        stem = self.name.removesuffix("weight")
        return [(stem + "q_weight", words, "uint32"), (stem + "q_scale", scales, scheme.dtype)]


@dataclass(frozen=True)
class Block:
    """The rows `begin` to `end` of the checkpoint's tensor `part`, from the row `row` of `tensor` on."""

    tensor: Tensor
    part: str
    begin: int
    end: int
    row: int

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint."""
        return (self.end - self.begin) * checkpoint.row_bytes(self.tensor.parts[self.part])


def convert(
    source: Path, facts: Architecture, scheme: Scheme, out: Path, progress: Progress, work: Path | None = None
) -> None:
    """Write the weights of the checkpoint `source` to the folder `out`.

    `work` is a folder on the file system of `out` that nothing else uses, from which an interrupted conversion
    resumes; what it holds of another checkpoint or scheme is removed. It belongs to the caller once `out` is safe.

    Raises ArtifactError when a tensor is missing, has another shape than the config says, or holds NaN or infinity;
    StageError when the disk is full, which leaves nothing half-written.
    """
    tensors = _tensors(source, facts)
    shards = tensor_cache.plan(chain.from_iterable(tensor.stored(scheme) for tensor in tensors))
    with disk.explaining_full(out), _folder(out, work, _identity(source, tensors, scheme)) as folder:
        files = ShardFolder(folder, shards)
        try:
            disk.require_room(folder, files.missing_bytes)
            _fill(files, tensors, scheme, progress)
            files.publish(out, _metadata(tensors, shards))
        finally:
            files.discard_parts()


def check(source: Path, facts: Architecture) -> None:
    """Raise what `convert` would of missing tensors and shapes, by the headers of the checkpoint's files alone."""
    _tensors(source, facts)


def _tensors(source: Path, facts: Architecture) -> list[Tensor]:
    """What to write, in the order of MLC's names, held against what the config says."""
    family, entries = FAMILIES[facts.family], checkpoint.index(source)
    if facts.layers > len(entries):  # the names of a billion layers would fill the memory
        raise ArtifactError(
            f"{source} holds {len(entries)} tensors, and its config.json says {facts.layers:,} layers",
            "Use the config.json that belongs to the checkpoint.",
        )
    names = family.weight_map(facts)
    missing = sorted({name for parts in names.values() for name in parts if name not in entries})
    if missing:
        raise ArtifactError(
            f"{source} lacks {len(missing)} tensor(s), the first is {missing[0]}",
            "Fetch or write the checkpoint again.",
        )
    shapes = family.weight_shapes(facts)
    # A layer that the config does not know would be left out in silence; buffers and a tied head's copy may be there.
    used = {name for parts in names.values() for name in parts}
    layers = {_numberless(name) for name in used if _numberless(name) != name}
    more = sorted(name for name in entries if name not in used and _numberless(name) in layers)
    if more:
        raise ArtifactError(
            f"{source} holds {more[0]}, beyond the {facts.layers} layers of its config.json",
            "Use the config.json that belongs to the checkpoint.",
        )
    tensors = [Tensor(ours, shapes[ours], {name: entries[name] for name in names[ours]}) for ours in sorted(names)]
    for tensor in tensors:
        _require_shape(tensor, source)
    return tensors


def _numberless(name: str) -> str:
    """A tensor's name with its layer left open."""
    return re.sub(r"\.\d+\.", ".N.", name)


def _require_shape(tensor: Tensor, source: Path) -> None:
    found = [part.shape for part in tensor.parts.values()]
    fits = all(shape and shape[1:] == tensor.shape[1:] for shape in found)
    if not fits or sum(shape[0] for shape in found) != tensor.shape[0]:
        have = "has the shape" if len(found) == 1 else "have the shapes"
        raise ArtifactError(
            f"{', '.join(tensor.parts)} in {source} {have} {', '.join(map(str, found))}, "
            f"its config.json says {tensor.shape}{'' if len(found) == 1 else ' together'}",
            "Use the config.json that belongs to the checkpoint.",
        )


def _fill(files: ShardFolder, tensors: list[Tensor], scheme: Scheme, progress: Progress) -> None:
    """Write the blocks that a shard still lacks."""
    places = {record.name: (shard, record) for shard in files.shards for record in shard.records}
    blocks, done = [], 0
    for tensor in tensors:
        whole = all(files.is_whole(places[name][0]) for name, _, _ in tensor.stored(scheme))
        for block in _blocks(tensor):
            if whole:
                done += block.nbytes
            else:
                blocks.append(block)
    progress.start("weights", done + sum(block.nbytes for block in blocks), "bytes")
    progress.advance(done)

    def write(block: Block) -> int:
        for (name, _, _), rows in zip(block.tensor.stored(scheme), _converted(block, scheme), strict=True):
            shard, record = places[name]
            if not files.is_whole(shard):
                files.write(shard, record.offset + block.row * (rows.nbytes // len(rows)), rows)
        return block.nbytes

    with ThreadPoolExecutor(_workers()) as pool:
        # An error or an interrupt here cancels the blocks that have not begun.
        for size in pool.map(write, blocks):
            progress.advance(size)
    progress.finish()


def _blocks(tensor: Tensor) -> Iterator[Block]:
    rows = max(1, BLOCK_WEIGHTS // math.prod(tensor.shape[1:]))
    above = 0
    for name, part in tensor.parts.items():
        for begin in range(0, part.shape[0], rows):
            yield Block(tensor, name, begin, min(begin + rows, part.shape[0]), above + begin)
        above += part.shape[0]


def _converted(block: Block, scheme: Scheme) -> tuple[NDArray[Any], ...]:
    """The rows of each stored tensor that a block becomes."""
    part = block.tensor.parts[block.part]
    rows = checkpoint.rows(part, block.begin, block.end)
    if scheme.quantized and rows.ndim == 2:
        stored: tuple[NDArray[Any], ...] = quantization.quantize(rows, scheme)
    else:
        with np.errstate(over="ignore"):
            stored = (rows.astype(scheme.dtype, copy=False),)
    # The scale of a group that holds NaN or infinity is one of them.
    if not _all_finite(stored[-1]):
        if _all_finite(rows):
            wider = scheme.name.replace("f16", "f32")
            instead = f"Use --quantization {wider}." if wider != scheme.name else "Train or merge again, in float32."
            raise ArtifactError(f"{block.part} in {part.file} holds values beyond {scheme.dtype}", instead)
        raise ArtifactError(
            f"{block.part} in {part.file} holds NaN or infinity", "Train or merge again; this checkpoint is damaged."
        )
    return stored


def _all_finite(values: NDArray[Any]) -> bool:
    """Whether no exponent is all ones. `np.isfinite` takes ten times as long for float16."""
    bits = values.view(f"u{values.itemsize}")
    infinity = np.array(np.inf, values.dtype).view(bits.dtype)
    return bool(((bits & infinity) != infinity).all())


def _metadata(tensors: list[Tensor], shards: list[Shard]) -> dict[str, float]:
    """MLC's summary: stored tensors, their bytes, and bits per parameter of the model."""
    size = sum(shard.nbytes for shard in shards)
    return {
        "ParamSize": sum(len(shard.records) for shard in shards),
        "ParamBytes": float(size),
        "BitsPerParam": size * 8.0 / sum(math.prod(tensor.shape) for tensor in tensors),
    }


def _workers() -> int:
    """As many threads as this process may use cores; hashing, writing and the kernel leave the interpreter's lock."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(source: Path, tensors: list[Tensor], scheme: Scheme) -> str:
    """A name for what a conversion is made from: the files with sizes and times, the places in them, the scheme."""
    files = {part.file: part.file.stat() for tensor in tensors for part in tensor.parts.values()}
    content = {
        "recipe": RECIPE,
        "source": str(source.resolve()),
        "scheme": scheme.name,
        "files": [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in sorted(files.items())],
        "tensors": [
            [tensor.name, tensor.shape, [[part.file.name, part.offset, part.dtype] for part in tensor.parts.values()]]
            for tensor in tensors
        ],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@contextmanager
def _folder(out: Path, work: Path | None, identity: str) -> Iterator[Path]:
    """The folder in which shards are made: in `work` if there is one, else below `out` for as long as it is used."""
    if work is None:
        with tempfile.TemporaryDirectory(dir=out, prefix=".weights-") as scratch:
            yield Path(scratch)
        return
    work.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name != identity:
            shutil.rmtree(path)
    folder = work / identity
    folder.mkdir(exist_ok=True)
    yield folder
