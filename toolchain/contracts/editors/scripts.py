"""Values in the languages that Vim and Neovim are set up in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def lua(value: Any, indent: str = "") -> str:
    """A Lua expression; tables of names have a line an entry."""
    deeper = f"{indent}  "
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{"".join(map(_lua_character, value))}"'
        case Mapping():
            entries = "".join(f"{deeper}{name} = {lua(entry, deeper)},\n" for name, entry in value.items())
            return f"{{\n{entries}{indent}}}"
        case list():
            return f"{{ {', '.join(lua(entry) for entry in value)} }}"
        case _:
            return repr(value)


def vim(variable: str, options: Mapping[str, str | int]) -> Iterator[str]:
    """Vim script lines that set entries of a dictionary."""
    for name, value in options.items():
        yield f"let {variable}.{name} = {vim_text(value) if isinstance(value, str) else value}"


def vim_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lua_character(character: str) -> str:
    return f"\\{ord(character):03}" if character < " " or character in '"\\' else character
