"""Control tokens in a rendered chat: what the template writes is a token, what its user typed is text.

A template gives one text, in which both look alike. So before rendering, control tokens within the messages are broken
up by a MARK, a character that Unicode keeps for such private use. Afterwards those that are whole are the template's
own, and become ids; the MARKs go, and all that lies between is encoded as text. Messages without control tokens pass
unchanged, so what a template does to them, trimming or comparing, comes out as it should. A message whose edge could
join with its surroundings to a control token, such as one that ends in `<`, gets a MARK at that edge.

Control tokens are those that the tokenizer calls special, and FIM's. Others that were added to a vocabulary, such as
`<think>`, are words of the model, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolchain.contracts.tokenizer import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARK = "\ufdd0"


class ControlTokens:
    """Those of a tokenizer that is opened for users' text (`toolchain/contracts/tokenizer.py`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        special = {id: token for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._ids = {token.content.strip(): id for id, token in special.items()}
        names = sorted((token.content for token in special.values()), key=len, reverse=True)
        self._names = names
        self._typed = re.compile("|".join(map(re.escape, names)) or "(?!)")
        # A token may be defined to swallow the white space beside it.
        swallowing = {token.content: (r"\s*" * token.lstrip, r"\s*" * token.rstrip) for token in special.values()}
        written = (f"{swallowing[name][0]}{re.escape(name)}(?!{MARK}){swallowing[name][1]}" for name in names)
        self._written = re.compile("|".join(written) or "(?!)")
        self._heads = tuple({name[at:] for name in names for at in range(1, len(name))})
        self._tails = tuple({name[:at] for name in names for at in range(1, len(name))})

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    def mark(self, text: str) -> str:
        """`text` of a message, so that nothing of it can become a control token."""
        text = self._typed.sub(lambda found: "".join(one + MARK for one in found[0]), text.replace(MARK, "\ufffd"))
        core = text.strip()
        if not core:
            return text
        within = any(core in name for name in self._names)
        before = MARK if within or core.startswith(self._heads) else ""
        after = MARK if within or core.endswith(self._tails) else ""
        return text.replace(core, f"{before}{core}{after}", 1) if before or after else text

    def encode(self, rendered: str) -> list[int]:
        """The ids of a text that a template made of marked messages."""
        ids: list[int] = []
        at = 0
        for found in self._written.finditer(rendered):
            ids += self._encode_text(rendered[at : found.start()])
            ids.append(self._ids[found[0].strip()])
            at = found.end()
        return ids + self._encode_text(rendered[at:])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(clean(text.replace(MARK, "")), add_special_tokens=False).ids
        return ids
