"""From the text around the cursor to the prompt's ids, within the context.

Editors send one string with the FIM tokens already inside, in the order PSM. It is taken apart again, so that the
server can arrange the parts in the order that reuses the cache best, and so that FIM tokens in the user's own code
stay code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Tokenizer

from toolchain.contracts.fim import KNOWN, FimIds, FimSpec

# The suffix may use this share of the room even when the prefix could fill it all.
SUFFIX_SHARE = 4
# A window over a long file moves in steps of this share, so that most keystrokes leave its start where it was: the
# cache is of use only while the prompt begins with the same ids.
STEP_SHARE = 8
# No tokenizer in use makes longer tokens of code, apart from runs of one character. More text than this many
# characters for each token of the context would be thrown away after encoding it.
LONGEST_TOKEN = 32
CONTROL_IDS_IN_PROMPT = 3


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    max_tokens: int
    """What the context has room for, if the request wanted more."""


class Encoder:
    """A tokenizer and the FIM tokens of its model; the tokenizer is changed to read control tokens as text."""

    def __init__(self, tokenizer: Tokenizer, spec: FimSpec, ids: FimIds) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.spec = spec
        self.ids = ids
        self._tokenizer = tokenizer
        self._control = re.compile("|".join(re.escape(name) for name in spec.control_tokens))

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text: never a control token, whatever the text says."""
        ids = self._encode(text)
        if self.ids.control.isdisjoint(ids):
            return ids
        # Some families do not mark their FIM tokens as special, so the tokenizer still sees them: cut through each.
        cuts = [0, *(match.start() + 1 for match in self._control.finditer(text)), len(text)]
        pieces = (self._encode(text[begin:end]) for begin, end in zip(cuts, cuts[1:], strict=False))
        return [number for piece in pieces for number in piece if number not in self.ids.control]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def split(text: str, spec: FimSpec) -> tuple[str, str | None]:
    """The prefix and the suffix in a client's `text`; the suffix is None where the text has no FIM tokens.

    An editor may be set up for another family's tokens than the model's: those are understood as well.
    """
    for known in (spec, *KNOWN):
        if text.startswith(known.prefix) and known.suffix in text:
            body = text.removeprefix(known.prefix)
            # The last of several: the cursor is more often below the tokens' names in a file than above them.
            if body.endswith(known.middle):
                prefix, _, suffix = body.removesuffix(known.middle).rpartition(known.suffix)
                return prefix, suffix
            before, middle, begun = body.rpartition(known.middle)
            if middle and known.suffix in before:
                # What follows the middle token is the beginning of the answer, in either order.
                prefix, _, suffix = before.rpartition(known.suffix)
                return prefix + begun, suffix
    return text, None


def build(encoder: Encoder, prefix: str, suffix: str | None, max_tokens: int, context_size: int) -> Prompt:
    """The prompt for the gap between `prefix` and `suffix`, leaving room for `max_tokens` in the context.

    The prefix keeps its end and the suffix its beginning. A completion gets half of the context at most.
    """
    max_tokens = min(max_tokens, context_size // 2)
    room = context_size - max_tokens - CONTROL_IDS_IN_PROMPT
    before = encoder.encode(_end(prefix, context_size * LONGEST_TOKEN))
    if suffix is None:
        # StarCoder and its kin saw this token before every text, so it also makes a prompt of nothing.
        return Prompt(_keep_end(before, room) or [encoder.ids.end_of_text], max_tokens)
    after = encoder.encode(suffix[: room * LONGEST_TOKEN])
    after = after[: max(room // SUFFIX_SHARE, room - len(before))]
    before = _keep_end(before, room - len(after))
    return Prompt(encoder.ids.arrange(encoder.spec.serving_order, before, after), max_tokens)


def _keep_end(ids: list[int], room: int) -> list[int]:
    return ids[_overflow(len(ids), room) :]


def _end(text: str, room: int) -> str:
    return text[_overflow(len(text), room) :]


def _overflow(length: int, room: int) -> int:
    """How much to drop from the front, in whole steps."""
    if length <= room:
        return 0
    step = max(room // STEP_SHARE, 1)
    return min(-(-(length - room) // step) * step, length)
