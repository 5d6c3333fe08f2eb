"""The samples of dialogues, which stay in memory, four bytes an id: every epoch takes the same ones."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from train.samples.sample import Sample


@dataclass(frozen=True)
class _Kept:
    ids: array[int]
    text_bytes: int
    predicted: list[list[int]] | None

    def sample(self) -> Sample:
        return Sample(self.ids.tolist(), self.text_bytes, None, self.predicted)


class CutDialogues(Sequence[list[Sample]]):
    """The samples of each dialogue by its index; of one that the template refuses none."""

    def __init__(self) -> None:
        self._dialogues: list[list[_Kept]] = []

    def append(self, samples: Sequence[Sample]) -> None:
        self._dialogues.append([_Kept(array("I", s.ids), s.text_bytes, s.predicted) for s in samples])

    def __len__(self) -> int:
        return len(self._dialogues)

    @overload
    def __getitem__(self, index: int) -> list[Sample]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[Sample]]: ...

    def __getitem__(self, index: int | slice) -> list[Sample] | list[list[Sample]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return [kept.sample() for kept in self._dialogues[index]]
