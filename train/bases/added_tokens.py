"""Tokens that a base gets for training: which ids they have, and its tokenizer's files with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError, SettingsError
from toolchain.contracts.tokenizer import FILE, open_tokenizer
from train.bases.base import Base, copy_tokenizer, fim_tokens

SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
"""As the tokenizers library writes a control token."""


@dataclass(frozen=True)
class AddedTokens:
    """Ids by the tokens' names, and the facts of the base once its embeddings have rows for them."""

    ids: dict[str, int]
    facts: Architecture


def for_base(base: Base) -> AddedTokens:
    """Ids for the tokens that `base` lacks, from its tokenizer's last one on.

    Where the embeddings have more rows than the tokenizer has tokens, those are used; else the embeddings grow.
    """
    return _behind_the_last(base.folder, base.facts, base.lacks)


def for_folder(folder: Path, name: str, facts: Architecture) -> AddedTokens:
    """The same for a folder of which only the configuration and the tokenizer are read.

    Raises SettingsError where it lacks none.
    """
    _, lacks = fim_tokens(folder, facts)
    refuse_none(lacks, name)
    return _behind_the_last(folder, facts, lacks)


def refuse_none(lacks: Sequence[str], name: str) -> None:
    """Raise SettingsError where tokens are to be added and none is lacking."""
    if not lacks:
        raise SettingsError(f"--add-fim-tokens: {name} has FIM tokens already", "Leave it out.")


def with_rows(facts: Architecture, tokens: int) -> Architecture:
    """The facts of a model once its embeddings have rows for so many tokens: as many as before, or more."""
    return architectures.from_config(facts.config | {"vocab_size": max(facts.vocab_size, tokens)})


def _behind_the_last(folder: Path, facts: Architecture, names: Sequence[str]) -> AddedTokens:
    first = max(open_tokenizer(folder).get_vocab().values()) + 1
    ids = {name: first + number for number, name in enumerate(names)}
    return AddedTokens(ids, with_rows(facts, first + len(ids)))


def write_tokenizer(source: Path, ids: dict[str, int], out: Path) -> None:
    """The files of the tokenizer in `source`, with the tokens `ids`, in the folder `out`.

    Raises ArtifactError for a tokenizer that does not give them these ids.
    """
    out.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(source, out)
    entries = {number: {"content": name, **SPECIAL} for name, number in ids.items()}

    tokenizer = _read(out / FILE)
    added = [*(tokenizer.get("added_tokens") or []), *({"id": number, **entries[number]} for number in entries)]
    _write(out / FILE, tokenizer | {"added_tokens": sorted(added, key=lambda token: token["id"])})
    if (out / "tokenizer_config.json").is_file():
        config = _with_names(_read(out / "tokenizer_config.json"), ids)
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] |= {str(number): entry for number, entry in entries.items()}
        _write(out / "tokenizer_config.json", config)
    if (out / "special_tokens_map.json").is_file():
        _write(out / "special_tokens_map.json", _with_names(_read(out / "special_tokens_map.json"), ids))
    if (out / "added_tokens.json").is_file():
        _write(out / "added_tokens.json", _read(out / "added_tokens.json") | ids)

    found = open_tokenizer(out).token_to_id
    if wrong := [name for name, number in ids.items() if found(name) != number]:
        raise ArtifactError(
            f"{source / FILE} has gaps between its token ids, and {wrong[0]} cannot be added behind the last one",
            "Choose another base.",
        )


def _with_names(content: dict[str, Any], names: dict[str, int]) -> dict[str, Any]:
    """`content` with `names` among its special tokens; transformers 5 calls them extra, 4 additional."""
    key = "extra_special_tokens" if isinstance(content.get("extra_special_tokens"), list) else None
    key = key or "additional_special_tokens"
    return content | {key: [*(content.get(key) or []), *names]}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "Fetch or write that file again.") from None
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
