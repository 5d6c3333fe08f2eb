"""Chunk, then fill-in-the-middle: from a file's text to training samples of token ids.

A file is first cut into chunks that fit the sequence; then a chunk becomes, at a given rate, a FIM sample. The other
way round, cutting FIM samples to length destroys most of them. Cuts fall between any two characters, because a real
cursor stands inside a token; the three parts are tokenized apart.
Source: Bavarian et al. 2022 (arXiv:2207.14255), section 3; the orders are those of `toolchain/contracts/fim.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolchain.contracts.fim import FimIds, Order

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Three FIM tokens, the end of text, and what tokenizing three parts apart may add.
RESERVED_TOKENS = 16


@dataclass(frozen=True)
class Sample:
    """Token ids that are attended to among themselves only, and the bytes of source text in them."""

    ids: list[int]
    text_bytes: int


@dataclass(frozen=True)
class Fim:
    """How samples are made for one base."""

    tokenizer: Tokenizer
    ids: FimIds
    orders: tuple[Order, ...]
    fim_rate: float
    spm_rate: float
    sequence_length: int
    seed: int

    def __post_init__(self) -> None:
        # A control token spelled out in the user's source enters the model as text.
        self.tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def samples(self, text: str, document: str, epoch: int) -> Iterator[Sample]:
        """The samples of one file. `document` names it, so that its draws do not depend on the order of files."""
        name = int.from_bytes(hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()[:8], "little")
        pieces = list(self.chunks(text))
        for number, piece in enumerate(pieces):
            draw = np.random.default_rng([self.seed, epoch, name, number])
            yield self._sample(piece, last=number == len(pieces) - 1, draw=draw)

    def chunks(self, text: str) -> Iterator[str]:
        """Consecutive parts of `text` of at most `sequence_length` tokens each, FIM tokens included. Nothing is lost."""
        room = self.sequence_length - RESERVED_TOKENS
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        begin = 0
        for token in range(room, len(offsets), room):
            # A character may be spread over several tokens, which then share its offsets.
            end = offsets[token][0]
            if end > begin:
                yield text[begin:end]
                begin = end
        if begin < len(text):
            yield text[begin:]

    def _sample(self, text: str, last: bool, draw: np.random.Generator) -> Sample:
        size = len(text.encode("utf-8", "surrogatepass"))
        if draw.random() >= self.fim_rate or len(text) < 3:
            ids = self.encode(text) + ([self.ids.end_of_text] if last else [])
            return Sample(ids[: self.sequence_length], size)
        first, second = sorted(int(cut) for cut in draw.integers(0, len(text) + 1, size=2))
        order: Order = "spm" if "spm" in self.orders and draw.random() < self.spm_rate else "psm"
        if order not in self.orders:
            order = self.orders[0]
        prefix, middle, suffix = self.encode(text[:first]), self.encode(text[first:second]), self.encode(text[second:])
        spare = self.sequence_length - 4 - len(prefix) - len(middle)
        # Should the parts take more tokens than the chunk did, the far end of the suffix goes.
        ids = [*self.ids.arrange(order, prefix, suffix[: max(spare, 0)]), *middle, self.ids.end_of_text]
        return Sample(ids[: self.sequence_length], size)
