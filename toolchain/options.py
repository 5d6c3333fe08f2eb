"""Command-line options made from the settings dataclasses, so that each default and help text is written once."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import typer

from toolchain.contracts import settings

VARIABLES = {"api_key": "FIMBLE_API_KEY", "upstream_key": "FIMBLE_UPSTREAM_KEY"}
"""Fields that the environment may give as well: what is secret can be seen on a command line."""


def with_options(*kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of the settings `kinds`, in place of its `**flags`.

    An option that was not given is None, so that `fimble.toml` and then the default can decide.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {parameter.name for parameter in kept}
        added = [option for kind in kinds for option in _options(kind) if option.name not in taken]
        command.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*kept, *added]} | {"return": None}
        return command

    return decorate


def command_line(flags: Mapping[str, Any]) -> list[str]:
    """The words that give a command these values of its options."""
    words: list[str] = []
    for name, value in flags.items():
        flag = settings.flag(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            words += [
                word for one in (value if isinstance(value, list | tuple) else [value]) for word in (flag, str(one))
            ]
    return words


def _options(kind: type) -> list[inspect.Parameter]:
    hints, texts = settings.field_types(kind), settings.documentation(kind)
    made = []
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shown = "" if default in (None, (), MISSING) else f" [default: {_show(default)}]"
        flag, hint = settings.flag(field.name), hints[field.name]
        names = f"{flag}/--no-{flag.removeprefix('--')}" if hint is bool else flag
        variable = VARIABLES.get(field.name)
        option = typer.Option(names, help=texts.get(field.name, "") + shown, show_default=False, envvar=variable)
        typed: Any = _plain_type(hint) | None
        annotation = typing.Annotated[typed, option]
        made.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return made


def _plain_type(hint: Any) -> Any:
    """The type typer parses: a list for a tuple, text for a choice of words (`settings.choose` checks them)."""
    if typing.get_origin(hint) is tuple:
        return list[typing.get_args(hint)[0]]  # type: ignore[misc]  # built at run time
    return str if typing.get_origin(hint) is typing.Literal else hint


def _show(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
