"""The chat template that a model's tokenizer brings, and the names of tokens that it may write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import ArtifactError

FILE, CONFIG, SPECIAL_TOKENS = "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and variables for it, such as `bos_token`."""

    source: str
    variables: Mapping[str, str]


def find(folder: Path) -> ChatTemplate | None:
    """The template in `folder`, a file of its own or in the tokenizer's configuration; None when there is none.

    Raises ArtifactError for files that cannot be read.
    """
    config, special = _read(folder / CONFIG), _read(folder / SPECIAL_TOKENS)
    source = _text(folder / FILE) or _default(config.get("chat_template"))
    if not source:
        return None
    tokens = {name: _content(value) for name, value in (special | config).items() if name.endswith("_token")}
    return ChatTemplate(source, {name: text for name, text in tokens.items() if text is not None})


def _default(given: object) -> str | None:
    """The template of a configuration, which may hold several by name."""
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _content(value: object) -> str | None:
    """A token, which is written as its text or as an object with it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise _unreadable(path, error) from None
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read ({type(error).__name__}: {error})", "Mend or replace the file.")
