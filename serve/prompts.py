"""FIM prompts: taking apart what the editor sends, and building what the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.contracts.fim import FimIds, FimSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIM_TOKENS = 3
SUFFIX_SHARE = 0.25
CHARACTERS_PER_TOKEN = 16


def take_apart(prompt: str, spec: FimSpec) -> tuple[str, str] | None:
    """Prefix and suffix of a PSM prompt as text, or None when it is none.

    Only the outermost tokens count: the first at the very start, the middle one at the very end. Between them the
    last suffix token divides; one spelled out in the user's own text before the cursor stays text.
    """
    inner = prompt.strip() if not prompt.startswith(spec.prefix) else prompt
    if not inner.startswith(spec.prefix) or not inner.endswith(spec.middle):
        return None
    body = inner[len(spec.prefix) : len(inner) - len(spec.middle)]
    prefix, found, suffix = body.rpartition(spec.suffix)
    return (prefix, suffix) if found else None


def build(prefix: str, suffix: str, tokenizer: Tokenizer, spec: FimSpec, ids: FimIds, room: int) -> list[int]:
    """The ids of a FIM prompt of at most `room` tokens, in the order that the model is served in.

    The suffix is cut to a quarter of the room where both do not fit; the prefix keeps its end.
    """
    before = encode(prefix[-room * CHARACTERS_PER_TOKEN :], tokenizer)
    after = encode(suffix[: room * CHARACTERS_PER_TOKEN], tokenizer)
    left = max(room - FIM_TOKENS, 0)
    after = after[: max(int(left * SUFFIX_SHARE), left - len(before))]
    before = before[max(len(before) - (left - len(after)), 0) :]
    return ids.arrange(spec.serving_order, before, after)


def build_plain(prefix: str, tokenizer: Tokenizer, ids: FimIds, room: int) -> list[int]:
    """The ids of text that is simply continued; an empty prompt begins a document."""
    before = encode(prefix[-room * CHARACTERS_PER_TOKEN :], tokenizer)
    return before[max(len(before) - room, 0) :] or [ids.end_of_text]


def encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of ordinary text: a control token that the user typed stays text (see `open_bundle`)."""
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found
