"""The tokenizer of a model, opened for users' text: control tokens are text, and offsets cover every character."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


def open_tokenizer(folder: Path, control: Iterable[str] = ()) -> Tokenizer:
    """The tokenizer in `folder`. `control` names tokens that it may not list as special.

    What looks like a control token in text is encoded as the characters that it is; control tokens are added by id.
    Raises ArtifactError when there is no `tokenizer.json` or it cannot be read.
    """
    from tokenizers import Tokenizer

    path, names = folder / FILE, set(control)
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {FILE}", "Save the tokenizer in its fast form there.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for token in content.get("added_tokens") or []:
            # Entries are marked rather than removed: without one, those that follow would move to other ids.
            # Qwen's FIM tokens are not marked as special, and would otherwise be found inside text.
            token["special"] = token["special"] or token["content"] in names
        # Byte-level post-processing takes white space out of offsets, and chunks and prompts are cut by them.
        content["post_processor"] = None
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # tokenizers raises plain Exception for a file that it cannot parse
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{path} cannot be read ({reason})", "Fetch or write that file again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def clean(text: str) -> str:
    """`text` with U+FFFD in place of lone surrogates, which JSON can carry and neither UTF-8 nor a tokenizer can."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
