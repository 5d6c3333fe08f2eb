"""Token healing: a prompt whose last token may be a beginning only.

A cursor stands anywhere, and a tokenizer makes tokens of what lies before it: `    ` before a word is one token, where
in whole text three of the blanks would be a token and the fourth belong to the word. What a model knows of the next
token does not fit such a beginning. So the last token is taken off the prompt, and generation has to begin with its
text, in whatever tokens the model likes best. Known from https://github.com/guidance-ai/guidance as token healing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Healer:
    """The tokens of a vocabulary by their bytes. Of one that is not byte-level BPE nothing is known or healed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = _bytes_of_tokens(tokenizer)
        ordered = sorted((text, token) for token, text in self._bytes.items())
        self._texts = [text for text, _ in ordered]
        self._tokens = np.array([token for _, token in ordered], np.int64)

    def split(self, prompt: Sequence[int]) -> tuple[Sequence[int], Tail] | None:
        """`prompt` without its last token, and what has to be generated instead; None where nothing is gained.

        That is the case for a control token, part of a character, a token that begins no other, and a prompt of one.
        """
        tail = self._bytes.get(prompt[-1])
        if tail is None or len(prompt) < 2 or len(self.fitting(tail)) < 2:
            return None
        try:
            return prompt[:-1], Tail(self, tail.decode())
        except UnicodeDecodeError:
            return None

    def fitting(self, text: bytes) -> NDArray[np.int64]:
        """The tokens that begin with `text`, itself first if it is one, and those that `text` begins with."""
        first = bisect_left(self._texts, text)
        longer = bisect_left(self._texts, True, lo=first, key=lambda one: not one.startswith(text))
        shorter = [self._at(text[:size]) for size in range(1, len(text))]
        return np.concatenate([self._tokens[first:longer], self._tokens[[at for at in shorter if at is not None]]])

    def bytes_of(self, token: int) -> bytes:
        return self._bytes[token]

    def _at(self, text: bytes) -> int | None:
        at = bisect_left(self._texts, text)
        return at if at < len(self._texts) and self._texts[at] == text else None


class Tail:
    """The text of the token that was taken off, with which generation begins: a `Beginning` for the engine."""

    def __init__(self, healer: Healer, text: str) -> None:
        self.text = text
        self._healer, self._left = healer, text.encode()

    def allowed(self) -> NDArray[np.int64] | None:
        """The ids that may come next; None when all may."""
        return self._healer.fitting(self._left) if self._left else None

    def take(self, token: int) -> bool:
        """`token` was chosen: whether it adds anything to the text."""
        if not self._left:
            return True
        taken = self._healer.bytes_of(token)
        adds, self._left = len(taken) > len(self._left), self._left[len(taken) :]
        return adds


def _bytes_of_tokens(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The bytes of every token that is text; none for tokenizers of other kinds than byte-level BPE."""
    from tokenizers import decoders

    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return {}
    value = _byte_values()
    added = tokenizer.get_added_tokens_decoder()
    words = ((word, token) for word, token in tokenizer.get_vocab().items() if token not in added)
    return {token: bytes(value[sign] for sign in word) for word, token in words if all(sign in value for sign in word)}


def _byte_values() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as they are, the others as the signs from U+0100 on (GPT-2's encoder)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
