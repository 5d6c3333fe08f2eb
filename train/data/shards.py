"""Parquet shards of one split, written as the rows come: the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from toolchain.contracts.chat.format import Message

SHARD_BYTES = 64 << 20
"""About how much text a shard holds, uncompressed."""
ROW_GROUP_BYTES = 8 << 20
"""How much text is held in memory before it is written."""


@dataclass(frozen=True)
class Row:
    """One file of the dataset."""

    repository: str
    path: str
    commit: str
    language: str
    license: str
    content: str


@dataclass(frozen=True)
class DialogueRow:
    """One dialogue of the dataset: the file and the line that it comes from, and its messages, as TRL names them."""

    source: str
    line: int
    messages: tuple[Message, ...]


COLUMNS = tuple(Row.__dataclass_fields__)
FILES = pyarrow.schema([pyarrow.field(name, pyarrow.string(), nullable=False) for name in COLUMNS])
_MESSAGE = pyarrow.struct([pyarrow.field(name, pyarrow.string(), nullable=False) for name in ("role", "content")])
DIALOGUES = pyarrow.schema(
    [
        pyarrow.field("source", pyarrow.string(), nullable=False),
        pyarrow.field("line", pyarrow.int64(), nullable=False),
        pyarrow.field("messages", pyarrow.list_(pyarrow.field("item", _MESSAGE, nullable=False)), nullable=False),
    ]
)


class SplitWriter:
    """Writes the rows of a split to `data/SPLIT-xxxxx-of-xxxxx.parquet`. The sizes to come decide how many shards."""

    def __init__(self, folder: Path, split: str, sizes: Sequence[int], schema: pyarrow.Schema = FILES) -> None:
        self._folder = folder
        self._split = split
        self._schema = schema
        self._shard_of = assign(sizes)
        self._count = self._shard_of[-1] + 1
        self._written = 0
        self._rows: list[Row | DialogueRow] = []
        self._held = 0
        self._shard = -1
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def write(self, row: Row | DialogueRow, size: int) -> None:
        shard = self._shard_of[self._written]
        if shard != self._shard:
            self.close()
            self._shard = shard
            name = f"{self._split}-{shard:05d}-of-{self._count:05d}.parquet"
            self._writer = pyarrow.parquet.ParquetWriter(self._folder / name, self._schema, compression="zstd")
        self._written += 1
        self._rows.append(row)
        self._held += size
        if self._held >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._writer is not None:
            self._flush()
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if self._rows and self._writer is not None:
            self._writer.write_table(pyarrow.Table.from_pylist(list(map(asdict, self._rows)), schema=self._schema))
        self._rows, self._held = [], 0


@contextmanager
def split_writer(
    folder: Path, split: str, sizes: Sequence[int], schema: pyarrow.Schema = FILES
) -> Iterator[SplitWriter]:
    """A writer for exactly as many rows as there are sizes, at least one."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SplitWriter(folder, split, sizes, schema)
    try:
        yield writer
    finally:
        writer.close()


def assign(sizes: Sequence[int]) -> list[int]:
    """The shard of each row, in order: a new one begins when the current one would grow beyond its size."""
    shards: list[int] = []
    shard = filled = 0
    for size in sizes:
        if filled and filled + size > SHARD_BYTES:
            shard, filled = shard + 1, 0
        filled += size
        shards.append(shard)
    return shards
