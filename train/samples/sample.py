"""What a model learns from: samples of token ids, and what makes them out of documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from toolchain.contracts.fim import Order


@dataclass(frozen=True)
class Sample:
    """Token ids that attend to one another and to nothing else. `text_bytes` is the size of the text to be predicted.

    `order` is None for all that is no fill-in-the-middle.
    """

    ids: list[int]
    text_bytes: int
    order: Order | None = None
    predicted: list[list[int]] | None = None
    """Begin and end of the ids to predict, where not all are; the others are there to be read only."""


class SampleSource(Protocol):
    """How documents, which are files or dialogues, become samples of at most `length` ids."""

    @property
    def length(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def padding(self) -> int:
        """The id that fills up rows."""
        ...

    @property
    def control(self) -> frozenset[int]:
        """Ids that stand for no text."""
        ...

    def samples(self, document: Any, epoch: int, number: int, /) -> Iterator[Sample]:
        """The samples of a document by its number: the same for the same arguments, so a resumed run repeats them."""
        ...
