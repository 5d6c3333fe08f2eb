"""Settings merged into the text of a settings file, whose comments and other settings stay."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from toolchain.contracts import extras
from toolchain.contracts.editors.forms import nested
from toolchain.contracts.editors.settings import Settings
from toolchain.editors import jsonc
from toolchain.editors.broken import Broken

NESTED = re.compile(r"^[^\s#-][^\n]*:[ ]*\n([ ]+)[^\s#-]", re.MULTILINE)
"""In YAML a mapping within one, and its indentation."""


def merge(form: str, text: str, settings: Settings) -> str:
    """`text` of the given form with the settings in it; the same text where they are in it already.

    Raises Broken for a text that is not of its form, and MissingExtra.
    """
    return MERGE[form](text, settings)


def merge_json(text: str, settings: Settings) -> str:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    for path, value in settings.items():
        text = jsonc.assign(text, path, value)
    return mark + text


def merge_toml(text: str, settings: Settings) -> str:
    extras.need("tomlkit")
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    try:
        document = tomlkit.parse(text)
    except ParseError as error:
        raise Broken(str(error).partition(" at line ")[0], error.line, error.col + 1) from None
    except TOMLKitError as error:
        raise Broken(str(error), 1, 1) from None
    before = deepcopy(document.unwrap())
    for (*above, name), value in settings.items():
        table: Any = document
        for number, key in enumerate(above):
            if key not in table:
                table[key] = tomlkit.table(is_super_table=number + 1 < len(above))
            table = table[key]
            if not isinstance(table, Mapping):
                raise Broken(f"'{key}' is no table", 1, 1)
        if name not in table or table[name] != value or isinstance(table[name], bool) != isinstance(value, bool):
            table[name] = value
    return text if document.unwrap() == before else tomlkit.dumps(document)


def merge_yaml(text: str, settings: Settings) -> str:
    """A top-level value stays when there is one; of a list, the entries with the names of ours become ours."""
    extras.need("ruamel.yaml")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.util import load_yaml_guess_indent

    try:
        _, sequence, offset = load_yaml_guess_indent(text)
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 1 << 16
        below = NESTED.search(text)
        yaml.map_indent = len(below[1]) if below else 2
        yaml.sequence_indent, yaml.sequence_dash_offset = (4, 2) if offset is None else (sequence, offset)
        document: Any = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Broken(error.problem or error.context or "it cannot be read", line, column) from None
    except YAMLError as error:
        raise Broken(" ".join(str(error).split()), 1, 1) from None
    wanted = nested(settings)
    head = ""
    if document is None:
        document = yaml.map()
        if all(line.startswith("#") or not line for line in map(str.strip, text.splitlines())):
            head = text if not text or text.endswith("\n") else f"{text}\n"
    if not isinstance(document, dict):
        raise Broken("a mapping is needed", 1, 1)
    changed = False
    for key, value in wanted.items():
        if document.get(key) is None:
            document[key] = value
            changed = True
        elif isinstance(value, list):
            changed |= _merge_entries(document, key, value)
    if not changed:
        return text
    out = io.StringIO()
    yaml.dump(document, out)
    return head + out.getvalue()


def _merge_entries(document: Any, key: str, wanted: list[dict[str, Any]]) -> bool:
    """Whether the list at `key` had to change."""
    listed = document[key]
    if not isinstance(listed, list):
        line, column = document.lc.value(key)
        raise Broken(f"'{key}' is no list", line + 1, column + 1)
    if not listed:
        document[key] = wanted
        return True
    changed = False
    for entry in wanted:
        known = next((one for one in listed if isinstance(one, dict) and one.get("name") == entry["name"]), None)
        if known is None:
            listed.append(entry)
            changed = True
            continue
        for name, value in entry.items():
            if known.get(name) != value:
                known[name] = value
                changed = True
    return changed


MERGE: dict[str, Callable[[str, Settings], str]] = {"json": merge_json, "yaml": merge_yaml, "toml": merge_toml}
