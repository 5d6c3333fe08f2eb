"""A tokenizer for users' text: token ids, and where in the text each token begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.contracts.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TextTokenizer:
    """Encodes ordinary text; control tokens are added by id, never by their spelling."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def starts(self, text: str) -> list[int]:
        """For each token of `text` the character at which it begins; tokens that share a character share it here."""
        return [begin for begin, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]


def open_text_tokenizer(folder: Path, control: Iterable[str]) -> TextTokenizer:
    """The tokenizer of a checkpoint. `control` names tokens that the tokenizer may not list as special."""
    return TextTokenizer(open_tokenizer(folder, control))
