"""Packing samples into sequences without attention across them.

A row of a batch holds several samples. Positions restart at each, and an explicit mask lets a token attend to the
earlier tokens of its own sample only: not left to what a version of a library makes of restarting positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from train.samples.sample import Sample

IGNORED = -100
OPEN_ROWS = 16
"""More of them leave less padding, and put off samples for longer."""

Row = list[Sample]


@dataclass(frozen=True)
class Batch:
    """Rows of packed samples; padding follows the last sample of a row."""

    ids: Tensor  # (B, T) int64
    positions: Tensor  # (B, T) int64, from 0 in each sample
    samples: Tensor  # (B, T) int64, the number of the sample in its row
    targets: Tensor  # (B, T) int64, the next token of the same sample, or IGNORED
    text_bytes: int

    @property
    def predicted(self) -> int:
        return int((self.targets != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Tokens of samples, padding left out."""
        return int((self.samples >= 0).sum())

    def inputs(self, window: int | None = None) -> dict[str, Any]:
        """What a model of transformers takes; `window` is how many tokens back it sees."""
        return {"input_ids": self.ids, "position_ids": self.positions, "attention_mask": self.attention_mask(window)}

    def flat_inputs(self) -> dict[str, Any]:
        """The same for flash attention: all samples in one row of `N` tokens, and where each begins and ends."""
        real = self.samples >= 0
        positions = self.positions[real]
        begins = (positions == 0).nonzero().flatten()
        edges = torch.cat([begins, begins.new_tensor([len(positions)])]).to(torch.int32)
        longest = int(edges.diff().max())
        return {
            "input_ids": self.ids[real][None],
            "position_ids": positions[None],
            "cu_seq_lens_q": edges,
            "cu_seq_lens_k": edges,
            "max_length_q": longest,
            "max_length_k": longest,
        }

    def attention_mask(self, window: int | None = None) -> Tensor | None:
        """Which positions attend to which, `(B, 1, T, T)`; None where what the model does by itself is the same."""
        if bool((self.samples <= 0).all()):
            return None  # one sample a row, and padding that only follows
        same = self.samples[:, :, None] == self.samples[:, None, :]
        order = torch.arange(same.shape[1], device=same.device)
        back = order[:, None] - order  # how far back a token lies; triangles of booleans are not made on every device
        seen = back >= 0 if window is None else (back >= 0) & (back < window)
        return (same & seen)[:, None]

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            samples=self.samples.to(device),
            targets=self.targets.to(device),
        )


class Packer:
    """Puts each sample into the fullest open row with room for it (best fit), and gives up rows that are full."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.rows: list[Row] = []

    def add(self, sample: Sample) -> Row | None:
        """Place `sample`; the row that had to be closed for it, if one had to."""
        closed = None
        fitting = [row for row in self.rows if self._room(row) >= len(sample.ids)]
        if fitting:
            min(fitting, key=self._room).append(sample)
        else:
            if len(self.rows) == OPEN_ROWS:
                closed = min(self.rows, key=self._room)
                self.rows = [row for row in self.rows if row is not closed]
            self.rows.append([sample])
        return closed

    def flush(self) -> list[Row]:
        """The rows that are still open, which are closed now."""
        rows, self.rows = self.rows, []
        return rows

    def _room(self, row: Row) -> int:
        return self.length - sum(len(sample.ids) for sample in row)


def collate(rows: Sequence[Row], padding: int) -> Batch:
    """Rows as tensors, as long as the longest row."""
    length = max(sum(len(sample.ids) for sample in row) for row in rows)
    ids = torch.full((len(rows), length), padding)
    positions = torch.zeros_like(ids)
    samples = torch.full_like(ids, -1)
    targets = torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        begin = 0
        for number, sample in enumerate(row):
            end = begin + len(sample.ids)
            ids[index, begin:end] = torch.tensor(sample.ids)
            positions[index, begin:end] = torch.arange(end - begin)
            samples[index, begin:end] = number
            for first, last in sample.predicted or [[0, len(sample.ids)]]:
                at = slice(begin + max(first, 1), begin + last)  # nothing stands before the first
                targets[index, at.start - 1 : at.stop - 1] = ids[index, at]
            begin = end
        # Padding has positions that go on, so that a row of one sample is not taken for a packed one.
        positions[index, begin:] = torch.arange(length - begin) + len(row[-1].ids)
    return Batch(ids, positions, samples, targets, sum(sample.text_bytes for row in rows for sample in row))
