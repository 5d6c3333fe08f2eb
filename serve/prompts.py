"""FIM prompts: taking apart what the editor sends, and building what the model was trained on.

A request without a suffix is built as plain text, not as FIM with nothing behind the cursor: half of a model's
training is plain text, whereas a random cut falls on the very end of a chunk only once in a thousand times. Editors
do the same and leave the FIM tokens out when nothing follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from serve.requests import BadRequest
from toolchain.contracts.fim import KNOWN, FimIds, FimSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIM_TOKENS = 3
SUFFIX_SHARE = 0.25
CHARACTERS_PER_TOKEN = 16
WHOLE_LINE_SHARE = 4
"""One part in so many of the text that fits may be given up so that it begins or ends with a whole line."""


class Parts(NamedTuple):
    """What a FIM prompt holds: the text around the cursor, and other files as name and text."""

    prefix: str
    suffix: str
    extra: tuple[tuple[str, str], ...] = ()


def take_apart(prompt: str, spec: FimSpec) -> Parts | None:
    """The parts of a PSM prompt as text, or None when it is none.

    Editors choose the tokens by the model's name, which they may not know, so those of every known family are taken
    where `spec`'s own are not there. Only the outermost tokens count: the first at the very start, or behind other
    files with their separators, the middle one at the very end. Between them the last suffix token divides; one
    spelled out in the user's own text before the cursor stays text.
    """
    if not spec.fills:
        return None
    for tokens in (spec, *KNOWN):
        parts = _take_apart(prompt, tokens)
        if parts:
            return parts
    return None


def _take_apart(prompt: str, spec: FimSpec) -> Parts | None:
    head, begun, around = prompt.partition(spec.prefix)
    starts = [name for name in (spec.repository_name, spec.file_separator) if name]
    if not begun or not around.endswith(spec.middle) or (head and not head.startswith(tuple(starts))):
        return None
    prefix, found, suffix = around[: len(around) - len(spec.middle)].rpartition(spec.suffix)
    if not found:
        return None
    # Before the first separator stands the repository's name, after the last the name of the file itself.
    files = head.split(spec.file_separator)[1:-1] if spec.file_separator else []
    named = (file.rstrip("\n").partition("\n") for file in files)
    return Parts(prefix, suffix, tuple((name, text + "\n") for name, _, text in named))


def check_suffix(suffix: str, spec: FimSpec) -> None:
    """Raise BadRequest for a suffix where the model fills no middle."""
    if suffix and not spec.fills:
        raise BadRequest("suffix", "this model chats and continues text, and does not fill in the middle")


def build(
    prefix: str,
    suffix: str,
    tokenizer: Tokenizer,
    spec: FimSpec,
    ids: FimIds,
    room: int,
    extra: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The ids of a prompt of at most `room` tokens, in the order that the model is served in.

    The prefix keeps its end and the suffix its beginning, as whole lines where that costs little; where both do not
    fit, the suffix is cut to a quarter of the room. Without any text the prompt begins a document. What room is left
    goes to `extra`, other files as name and text, which stand before it all. Raises BadRequest for a suffix where the
    model fills no middle.
    """
    check_suffix(suffix, spec)
    around = _around(prefix, suffix, tokenizer, spec, ids, room)
    return [*_other_files(extra, tokenizer, spec, room - len(around)), *around]


def _around(prefix: str, suffix: str, tokenizer: Tokenizer, spec: FimSpec, ids: FimIds, room: int) -> list[int]:
    """The ids of the text around the cursor."""
    if not suffix:
        return _end_of(prefix, tokenizer, room) or [ids.end_of_text]
    left = max(room - FIM_TOKENS, 0)
    before = _end_of(prefix, tokenizer, left)
    after = _start_of(suffix, tokenizer, max(int(left * SUFFIX_SHARE), left - len(before)))
    if len(before) + len(after) > left:
        before = _end_of(prefix, tokenizer, left - len(after))
    return ids.arrange(spec.serving_order, before, after)


def _other_files(files: Sequence[tuple[str, str]], tokenizer: Tokenizer, spec: FimSpec, room: int) -> list[int]:
    """Whole files behind their separators, the last ones that fit; none where the model was trained on no separator.

    One more separator ends the last file. Editors put what matters most last.
    """
    separator = tokenizer.token_to_id(spec.file_separator) if spec.file_separator else None
    if separator is None:
        return []
    found: list[int] = []
    for name, text in reversed(files):
        left = room - len(found) - 1
        if len(text) > left * CHARACTERS_PER_TOKEN:
            break  # not worth the tokenizer's time
        file = [separator, *_encode(f"{name}\n{text}", tokenizer).ids]
        if len(file) > left:
            break
        found = file + found
    return [*found, separator] if found else []


def _end_of(text: str, tokenizer: Tokenizer, most: int) -> list[int]:
    """The last `most` tokens of `text`, or fewer where a line or at least a character begins there."""
    if most < 1:
        return []
    window = text[-most * CHARACTERS_PER_TOKEN :]
    encoded = _encode(window, tokenizer)
    ids: list[int] = encoded.ids
    if len(ids) <= most and len(window) == len(text):
        return ids
    starts = [start for start, _ in encoded.offsets]
    cut = max(len(ids) - most, 0)
    line = window.find("\n", max(starts[cut] - 1, 0)) + 1
    if line and (line - starts[cut]) * WHOLE_LINE_SHARE <= len(window) - starts[cut]:
        # Encoded anew, because a token may join the line's end to the next one's indentation.
        kept: list[int] = _encode(window[line:], tokenizer).ids
        if len(kept) <= most:
            return kept
    while 0 < cut < len(ids) and starts[cut] == starts[cut - 1]:
        cut += 1  # tokens of one character start at the same place
    return ids[cut:]


def _start_of(text: str, tokenizer: Tokenizer, most: int) -> list[int]:
    """The first `most` tokens of `text`, or fewer where a line or at least a character ends there."""
    if most < 1:
        return []
    # A whole file may follow the cursor; only what can fit is worth the tokenizer's time.
    window = text[: most * CHARACTERS_PER_TOKEN]
    encoded = _encode(window, tokenizer)
    ids: list[int] = encoded.ids
    if len(ids) <= most and len(window) == len(text):
        return ids
    cut = min(len(ids), most)
    end = encoded.offsets[cut - 1][1]
    line = window.rfind("\n", 0, end) + 1
    if line and (end - line) * WHOLE_LINE_SHARE <= end:
        kept: list[int] = _encode(window[:line], tokenizer).ids
        if len(kept) <= most:
            return kept
    starts = [start for start, _ in encoded.offsets]
    while 0 < cut < len(ids) and starts[cut] == starts[cut - 1]:
        cut -= 1
    return ids[:cut]


def _encode(text: str, tokenizer: Tokenizer) -> Any:
    """Ordinary text: a control token that the user typed stays text (see `serve/bundle.py`)."""
    return tokenizer.encode(text, add_special_tokens=False)
