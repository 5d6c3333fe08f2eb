"""Settings of a stage: a dataclass filled from flags, then `fimble.toml`, then its own defaults.

`fimble.toml` has one table a stage, with the flags' names (`max-steps` or `max_steps`). It is looked for in the
working folder and upward. A field, its flag and its key in the file have one name; the string below the field
documents all three.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from toolchain.contracts.errors import SettingsError

T = TypeVar("T")
FILE = "fimble.toml"
TABLES = ("up", "collect", "scratch", "train", "compile", "serve")


def find_file(start: Path) -> Path | None:
    """The nearest `fimble.toml` at or above `start`."""
    return next((folder / FILE for folder in (start, *start.parents) if (folder / FILE).is_file()), None)


def read_file(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of a `fimble.toml`. Raises SettingsError for bad TOML or an unknown table."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", "Mend the file.") from None
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise SettingsError(f"{path} has an unknown table or key '{name}'", _suggest(name, TABLES))
    return tables


def build(kind: type[T], table: Mapping[str, Any], flags: Mapping[str, Any], where: str = FILE) -> T:
    """An instance of the dataclass `kind` from a table of `fimble.toml` and the flags that were given (not None)."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass by contract
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in names:
            raise SettingsError(f"unknown key '{key}' in {where}", _suggest(name, sorted(names)))
        values[name] = tuple(value) if isinstance(value, list) else value
    values |= {key: value for key, value in flags.items() if value is not None}
    try:
        return kind(**values)
    except TypeError as error:
        raise SettingsError(f"{where}: {error}", "Check the type of that value.") from None


def documentation(kind: type) -> dict[str, str]:
    """The string below each field of a settings dataclass, by the field's name, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def to_json(settings: object) -> dict[str, Any]:
    """A settings dataclass as plain JSON values, for a manifest."""
    values = asdict(settings)  # type: ignore[call-overload]  # a dataclass by contract
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _suggest(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
