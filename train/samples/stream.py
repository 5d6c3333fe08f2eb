"""From documents, which are files or dialogues, to an endless stream of batches, in an order that the seed decides.

Every epoch has its own order and its own cuts. Many files are read at a time, a sample of each in turn: otherwise a
large file fills batch after batch with itself. The stream's place is small (the files being read, and the samples
that wait in open rows), so a resumed run goes on at once and with the same batches.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train.samples.fim import Sampler
from train.samples.packing import Batch, Packer, Row, collate
from train.samples.sample import Sample, SampleSource

HELD_OUT_DRAW = "held-out"
FILES_AT_A_TIME = 64


@dataclass(frozen=True)
class Reading:
    """A file being read: of which epoch, its index, and how many of its samples were taken."""

    epoch: int
    document: int
    taken: int


@dataclass(frozen=True)
class Place:
    """Where a stream stands: files begun of an epoch, those being read, whose turn it is, rows full or open."""

    epoch: int
    files: int
    reading: list[Reading]
    turn: int
    ready: list[Row]
    open: list[Row]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Place:
        ready, rows = ([[Sample(**s) for s in row] for row in content[name]] for name in ("ready", "open"))
        reading = [Reading(**file) for file in content["reading"]]
        return cls(content["epoch"], content["files"], reading, content["turn"], ready, rows)


class BatchStream:
    """Batches of `batch_size` rows without end; after `resume` those that came after the place it is given."""

    def __init__(self, documents: Sequence[Any], sampler: SampleSource, batch_size: int) -> None:
        self._documents = documents
        self._sampler = sampler
        self._batch_size = batch_size
        self._packer = Packer(sampler.length)
        self._ready: list[Row] = []
        self._epoch = 0
        self._files = 0
        self._order = self._order_of(0)
        self._reading: list[tuple[Reading, Iterator[Sample]]] = []
        self._turn = 0

    def next(self) -> Batch:
        while len(self._ready) < self._batch_size:
            if row := self._packer.add(self._next_sample()):
                self._ready.append(row)
        rows, self._ready = self._ready[: self._batch_size], self._ready[self._batch_size :]
        return collate(rows, self._sampler.padding)

    def place(self) -> Place:
        """Where it stands after the last batch."""
        # Samples never change, but rows grow.
        reading = [file for file, _ in self._reading]
        rows = [list(row) for row in self._packer.rows]
        return Place(self._epoch, self._files, reading, self._turn, list(self._ready), rows)

    def resume(self, place: Place) -> None:
        """Go on from a place of a stream over the same texts with the same settings."""
        self._epoch, self._files, self._ready = place.epoch, place.files, list(place.ready)
        self._packer.rows = [list(row) for row in place.open]
        self._order = self._order_of(self._epoch)
        self._reading = [(file, self._samples_of(file)) for file in place.reading]
        self._turn = place.turn

    def _next_sample(self) -> Sample:
        """The next sample of the file whose turn it is; a file that has none left makes room for another."""
        while True:
            if len(self._reading) < min(FILES_AT_A_TIME, len(self._documents)):
                file = self._begin_file()
                self._reading.append((file, self._samples_of(file)))
                continue
            self._turn %= len(self._reading)
            file, samples = self._reading[self._turn]
            sample = next(samples, None)
            if sample is None:
                del self._reading[self._turn]
                continue
            self._reading[self._turn] = (Reading(file.epoch, file.document, file.taken + 1), samples)
            self._turn += 1
            return sample

    def _samples_of(self, file: Reading) -> Iterator[Sample]:
        samples = self._sampler.samples(self._documents[file.document], file.epoch, file.document)
        return itertools.islice(samples, file.taken, None)

    def _begin_file(self) -> Reading:
        if self._files == len(self._order):
            self._epoch, self._files = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        document = self._order[self._files]
        self._files += 1
        return Reading(self._epoch, document, 0)

    def _order_of(self, epoch: int) -> list[int]:
        order = list(range(len(self._documents)))
        random.Random(f"{self._sampler.seed}/order/{epoch}").shuffle(order)
        return order


def held_out_batches(documents: Sequence[Any], sampler: SampleSource, batch_size: int, rows: int) -> list[Batch]:
    """The same at most `rows` rows at every call, from files chosen at random but once and for all."""
    order = list(range(len(documents)))
    random.Random(HELD_OUT_DRAW).shuffle(order)
    packer, closed = Packer(sampler.length), list[Row]()
    for document in order:
        for sample in sampler.samples(documents[document], 0, document):
            if row := packer.add(sample):
                closed.append(row)
        if len(closed) >= rows:
            break
    chosen = [*closed, *packer.flush()][:rows]
    return [collate(chosen[at : at + batch_size], sampler.padding) for at in range(0, len(chosen), batch_size)]


def tokens_in(texts: Sequence[str], sampler: Sampler, files: int = 200) -> int:
    """About how many tokens all texts have: bytes are counted, tokens a byte measured on evenly spaced files."""
    sizes = [len(text.encode()) for text in texts]
    chosen = range(0, len(texts), max(1, len(texts) // files))
    tokens = sum(len(sampler.tokenizer.encode(texts[index])) for index in chosen)
    return round(sum(sizes) * tokens / max(1, sum(sizes[index] for index in chosen)))
