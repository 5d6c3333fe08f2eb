"""From a dataset folder to batches, in an order that the seed decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import ArtifactError
from train.fim import Fim, Sample
from train.packing import Batch, collate, pack

SHUFFLE_BUFFER = 2000


def open_split(dataset: Path, split: str) -> Any:
    """One split as a stream of rows. Raises ArtifactError when the folder has no such split."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(dataset), split=split, streaming=True)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{dataset} has no readable split '{split}' ({reason})", "Collect it again.") from None


def texts(dataset: Path, split: str) -> Iterator[str]:
    """The files of a split in their stored order."""
    return (row["content"] for row in open_split(dataset, split))


def training_batches(dataset: Path, fim: Fim, batch_size: int) -> Iterator[Batch]:
    """Endless batches: every epoch has its own order and its own cuts."""
    rows = open_split(dataset, "train").shuffle(seed=fim.seed, buffer_size=SHUFFLE_BUFFER)

    def samples() -> Iterator[Sample]:
        for epoch in itertools.count():
            rows.set_epoch(epoch)
            empty = True
            for row in rows:
                for sample in fim.samples(row["content"], f"{row['repository']}\0{row['path']}", epoch):
                    empty = False
                    yield sample
            if empty:
                raise ArtifactError(f"{dataset} has no text to train on", "Collect other repositories.")

    sequences = pack(samples(), fim.sequence_length)
    while True:
        yield collate(list(itertools.islice(sequences, batch_size)), fim.sequence_length, fim.ids.end_of_text)


def heldout_batches(dataset: Path, fim: Fim, batch_size: int, sequences: int) -> list[Batch]:
    """At most `sequences` packed sequences of held-out files, the same at every call. They are spread over the files."""
    rows = open_split(dataset, "heldout").shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
    samples = (
        sample
        for row in rows
        for sample in fim.samples(row["content"], f"{row['repository']}\0{row['path']}", epoch=0)
    )
    packed = list(itertools.islice(pack(samples, fim.sequence_length), sequences))
    if not packed:
        raise ArtifactError(f"{dataset} has no held-out text", "Collect more files, or raise --heldout-fraction.")
    starts = range(0, len(packed), batch_size)
    return [collate(packed[at : at + batch_size], fim.sequence_length, fim.ids.end_of_text) for at in starts]
