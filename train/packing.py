"""Packing samples into sequences without attention across them.

Positions restart at each sample. Transformers' models, called without an attention mask and without a cache, take
restarting positions as the borders of packed samples and mask attention between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from train.fim import Sample

IGNORED = -100
POOL = 64


@dataclass(frozen=True)
class Batch:
    """Sequences ready for a model; each tensor is `(B, T)` of int64."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    text_bytes: int

    @property
    def predicted(self) -> int:
        """How many tokens the loss is taken over: all but padding and the first of each sample."""
        return int((self.labels != IGNORED).sum())


def pack(samples: Iterable[Sample], length: int) -> Iterator[list[Sample]]:
    """Group samples into sequences of at most `length` tokens; every sample lands in exactly one.

    From a pool of waiting samples the longest that still fits is taken, so little is padded.
    """
    source = iter(samples)
    pool: list[Sample] = []
    while True:
        while len(pool) < POOL and (sample := next(source, None)) is not None:
            pool.append(sample)
        if not pool:
            return
        # The oldest sample goes first: none waits for ever, and order stays close to the stream's.
        sequence, room = [pool[0]], length - len(pool.pop(0).ids)
        while fitting := [sample for sample in pool if len(sample.ids) <= room]:
            longest = max(fitting, key=lambda sample: len(sample.ids))
            pool.remove(longest)
            sequence.append(longest)
            room -= len(longest.ids)
        yield sequence


def collate(sequences: list[list[Sample]], length: int, padding: int) -> Batch:
    """Sequences of samples as one batch, padded to `length`. Padding is a sample of its own, without loss."""
    ids = torch.full((len(sequences), length), padding, dtype=torch.int64)
    positions = torch.zeros((len(sequences), length), dtype=torch.int64)
    labels = torch.full((len(sequences), length), IGNORED, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        begin = 0
        for sample in sequence:
            end = begin + len(sample.ids)
            ids[row, begin:end] = torch.tensor(sample.ids)
            positions[row, begin:end] = torch.arange(end - begin)
            # A sample's first token has no predecessor of its own.
            labels[row, begin + 1 : end] = ids[row, begin + 1 : end]
            begin = end
        positions[row, begin:] = torch.arange(length - begin)
    return Batch(ids, positions, labels, sum(sample.text_bytes for sequence in sequences for sample in sequence))
