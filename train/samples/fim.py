"""Chunk, then fill-in-the-middle: from a file's text to training samples of token ids.

A file is first cut into chunks that fit the sequence; then a chunk becomes, at a given rate, a FIM sample. The other
way round, cutting FIM samples to length, destroys most of them. Cuts fall between any two characters unless asked
otherwise, because a real cursor stands inside a token; the three parts are tokenized apart.
Source: Bavarian et al. 2022 (arXiv:2207.14255), section 3; the orders are those of `toolchain/contracts/fim.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from toolchain.contracts.fim import FimIds, Order
from train.bases.tokenization import TextTokenizer
from train.samples.cuts import Cut, anywhere
from train.samples.repository import RepositoryContext
from train.samples.sample import Sample

CONTROL_TOKENS = 4
"""Three of FIM and the end of text."""
SLACK = 12
"""Room for the tokens by which parts encoded apart exceed the chunk as a whole: each cut may split a token."""


@dataclass(frozen=True)
class Sampler:
    """How files become samples for one base. Nothing of a file is left out."""

    tokenizer: TextTokenizer
    ids: FimIds
    orders: tuple[Order, ...]
    length: int
    fim_rate: float
    spm_rate: float
    seed: int
    cut: Cut = anywhere
    context: RepositoryContext | None = None

    @property
    def room(self) -> int:
        """Tokens of a sequence that are left for the file itself."""
        return self.length - (self.context.tokens if self.context else 0)

    @property
    def padding(self) -> int:
        return self.ids.end_of_text

    @property
    def control(self) -> frozenset[int]:
        return self.ids.control

    def samples(self, text: str, epoch: int, document: int) -> Iterator[Sample]:
        """The samples of one file. Draws depend on the seed and these numbers alone, so a resumed run repeats them."""
        chunks = parts(text, self.tokenizer.starts(text), self.room - CONTROL_TOKENS - SLACK)
        for number, chunk in enumerate(chunks):
            draw = random.Random(f"{self.seed}/{epoch}/{document}/{number}")
            for sample in self._of_chunk(chunk, document, number == len(chunks) - 1, draw):
                given = self.context.before(document, draw) if self.context else []
                yield _after(given, sample)

    def _of_chunk(self, chunk: str, document: int, last: bool, draw: random.Random) -> Iterator[Sample]:
        if draw.random() < self.fim_rate:
            sample = self._infilling(chunk, document, draw)
            if len(sample.ids) <= self.room:
                yield sample
                return
        ids = self.tokenizer.encode(chunk)
        if len(ids) >= self.room and len(chunk) > 1:
            # Out of its surroundings a chunk may take more tokens than it did within them.
            half = len(chunk) // 2
            yield from self._of_chunk(chunk[:half], document, False, draw)
            yield from self._of_chunk(chunk[half:], document, last, draw)
        else:
            yield Sample([*ids, self.ids.end_of_text] if last else ids, _size(chunk), None)

    def _infilling(self, chunk: str, document: int, draw: random.Random) -> Sample:
        order: Order = self.orders[0]
        if len(self.orders) > 1:
            order = "spm" if draw.random() < self.spm_rate else "psm"
        first, second = self.cut(chunk, document, draw)
        prefix, middle, suffix = map(self.tokenizer.encode, (chunk[:first], chunk[first:second], chunk[second:]))
        ids = [*self.ids.arrange(order, prefix, suffix), *middle, self.ids.end_of_text]
        return Sample(ids, _size(chunk), order)


def parts(text: str, starts: list[int], tokens: int) -> list[str]:
    """`text` in consecutive parts of `tokens` tokens, where token `i` begins at character `starts[i]`.

    Characters stay whole: one that is spread over several tokens may make a part that much longer.
    """
    edges = sorted({0, *starts[tokens::tokens], len(text)})
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


def _after(given: list[int], sample: Sample) -> Sample:
    """`sample` behind ids that are there to be read only."""
    if not given:
        return sample
    ids = [*given, *sample.ids]
    return replace(sample, ids=ids, predicted=[[len(given), len(ids)]])


def _size(text: str) -> int:
    return len(text.encode())
