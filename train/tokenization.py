"""A tokenizer for users' text: what looks like a control token in it is encoded as the characters that it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.contracts.errors import ArtifactError

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
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    names = set(control)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for token in content.get("added_tokens") or []:
            # Entries are marked rather than removed: without one, those that follow would move to other ids.
            # Qwen's FIM tokens are not marked as special, and would otherwise be found inside text.
            token["special"] = token["special"] or token["content"] in names
        # Byte-level post-processing takes white space out of offsets, and chunks would lose it.
        content["post_processor"] = None
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # tokenizers raises plain Exception for a file that it cannot parse
        raise ArtifactError(f"{path} cannot be read ({error})", "Fetch or write that file again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return TextTokenizer(tokenizer)
