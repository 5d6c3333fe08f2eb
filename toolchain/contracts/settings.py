"""Settings of a stage: a dataclass filled from flags, then `fimble.toml`, then its own defaults.

`fimble.toml` has one table a stage, with the flags' names (`max-steps` or `max_steps`). It is looked for in the
working folder and upward. A field, its flag and its key in the file have one name; the string below the field
documents all three. Types are checked here, where a value comes from outside; the dataclass checks the values.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from toolchain.contracts.errors import SettingsError, UserError

T = TypeVar("T")
FILE = "fimble.toml"
WORDS: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a text in quotes"}


def find_file(start: Path) -> Path | None:
    """The nearest `fimble.toml` at or above `start`."""
    return next((folder / FILE for folder in (start, *start.parents) if (folder / FILE).exists()), None)


def read_file(path: Path | None, kinds: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """The tables of a `fimble.toml`, each of them checked, with the settings dataclass that `kinds` has for its name.

    Raises SettingsError, or what the dataclass raises, for anything in it that no stage could use.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})", "Mend or remove it.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", "Mend the file.") from None
    for name, table in tables.items():
        if name not in kinds:
            raise SettingsError(f"{path} has an unknown table or key '{name}'", suggest(name, kinds))
        if not isinstance(table, dict):
            raise SettingsError(f"'{name}' in {path} is no table", f"Write [{name}], and its settings below it.")
        choose(kinds[name], name, tables, {}, path)
    return tables


def choose(
    kind: type[T],
    table: str,
    tables: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    file: Path | str = FILE,
) -> T:
    """The settings of one stage: its table of `file`, and over it those flags that it has a field for.

    A flag that is None was not given. Raises SettingsError for an unknown key and for a value of the wrong type.
    """
    hints, where = field_types(kind), f"in [{table}] of {file}"
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in tables.get(table, {}).items():
        name = key.replace("-", "_")
        if name not in hints:
            raise SettingsError(f"unknown key '{key}' {where}", suggest(name, sorted(hints)))
        if name in keys:
            raise SettingsError(f"{keys[name]} and {key} {where} are one setting", "Remove one of them.")
        values[name], keys[name] = _typed(f"{key} {where}", value, hints[name]), key
    for name, value in flags.items():
        if name in hints and value is not None:
            values[name] = _typed(flag(name), value, hints[name])
            keys.pop(name, None)
    try:
        return kind(**values)
    except UserError as error:
        message = _as_written(error.message, values, keys, where)
        if where not in message and len(keys) == len(values):
            message = f"{message}, {where}"
        raise type(error)(message, error.next_step) from None


def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a settings dataclass, by the field's name, without the None that stands for absent."""
    hints = typing.get_type_hints(kind)
    return {field.name: _without_none(hints[field.name]) for field in fields(kind)}


def flag(name: str) -> str:
    """The command line's name of a field."""
    return f"--{name.replace('_', '-')}"


def check(what: str, value: object, holds: bool, allowed: str) -> None:
    """Raise SettingsError unless `holds`. `what` is what the user wrote: a flag, or a key and its table."""
    if not holds:
        raise SettingsError(f"{what} cannot be {value!r}", f"Use {allowed}.")


def at_least(what: str, value: int, least: int) -> None:
    check(what, value, value >= least, f"a whole number of {least} or more")


def suggest(name: str, known: Iterable[str]) -> str:
    """A next step for somebody who wrote `name` where only the `known` ones will do."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."


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


def _typed(what: str, value: Any, hint: Any) -> Any:
    """`value`, which came from outside, when it is what a field of the type `hint` takes; a list as a tuple."""
    if typing.get_origin(hint) is tuple:
        texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        check(what, value, texts, 'a list of texts, such as ["one", "another"]')
        return tuple(value)
    if typing.get_origin(hint) is typing.Literal:
        words = typing.get_args(hint)
        check(what, value, value in words, f"one of: {', '.join(words)}")
    elif hint is float:
        # Not infinite, not NaN, and no whole number beyond all floats, which TOML can hold.
        check(what, value, type(value) in (int, float) and abs(value) <= sys.float_info.max, "a number")
        return float(value)
    else:
        check(what, value, type(value) is hint, WORDS[hint])
    return value


def _as_written(message: str, values: Mapping[str, Any], keys: Mapping[str, str], where: str) -> str:
    """`message`, which calls every field by its flag, with the `keys` of those that the file gives.

    The place is told once: "dora in [train] of fimble.toml has no effect with method full".
    """
    names = {flag(name): name for name in keys}
    word = "|".join(sorted(names, key=len, reverse=True))
    told = False

    def written(found: re.Match[str]) -> str:
        nonlocal told
        name, behind = names[found[1]], found[2] or ""
        place, told = "" if told else f" {where}", True
        of_it = behind == f" {values[name]}"
        return f"{keys[name]}{behind}{place}" if of_it else f"{keys[name]}{place}{behind}"

    return re.sub(rf"({word})(?![\w-])( (?!--)\S+)?", written, message) if names else message


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint
