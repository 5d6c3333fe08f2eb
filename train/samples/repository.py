"""Repository-level context: excerpts of other files of the same repository, before the chunk that is learnt.

In the form of a prompt with other files, as the server builds it: each behind the base's file separator, its path on
the first line, and one more separator at the end. What is given is not predicted, or popular files would be learnt by
heart.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from train.bases.tokenization import TextTokenizer
from train.settings import LEAST_CONTEXT

FILES = 8
"""No more of them stand before one chunk; how many do is drawn."""
CHARACTERS_PER_TOKEN = 8
"""No more of a file than this is worth the tokenizer's time."""


@dataclass(frozen=True)
class RepositoryContext:
    """Files by index, and how many tokens of others may stand before one."""

    repositories: Sequence[str] = field(repr=False)
    paths: Sequence[str] = field(repr=False)
    texts: Sequence[str] = field(repr=False)
    tokenizer: TextTokenizer
    separator: int
    tokens: int

    @cached_property
    def siblings(self) -> dict[str, list[int]]:
        """The files of each repository."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for index, repository in enumerate(self.repositories):
            found[repository].append(index)
        return dict(found)

    def before(self, document: int, draw: random.Random) -> list[int]:
        """At most `tokens` ids of one file or several; none for the only file of a repository.

        Files share the room evenly, and what a short one leaves goes to those after it.
        """
        others = [index for index in self.siblings[self.repositories[document]] if index != document]
        most = min(FILES, len(others), self.tokens // LEAST_CONTEXT)
        if not most:
            return []
        found: list[int] = []
        chosen = draw.sample(others, draw.randint(1, most))
        for left, other in zip(range(len(chosen), 0, -1), chosen, strict=True):
            share = (self.tokens - 1 - len(found)) // left - 1  # a separator before each, and one at the end
            excerpt = self._excerpt(self.texts[other], share, draw)
            found += [self.separator, *self.tokenizer.encode(f"{self.paths[other]}\n{excerpt}")[:share]]
        return [*found, self.separator]

    def _excerpt(self, text: str, tokens: int, draw: random.Random) -> str:
        """A part of a file from the beginning of a line on."""
        most = tokens * CHARACTERS_PER_TOKEN
        begin = draw.randrange(max(1, len(text) - most // 2))
        line = text.rfind("\n", 0, begin) + 1
        return text[line : line + most]
