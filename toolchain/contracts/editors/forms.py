"""Settings as the text of a file: JSON, YAML or TOML."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from toolchain.contracts import extras
from toolchain.contracts.editors.settings import Settings


def nested(settings: Settings) -> dict[str, Any]:
    """The settings as tables within tables."""
    root: dict[str, Any] = {}
    for (*above, name), value in settings.items():
        table = root
        for key in above:
            table = table.setdefault(key, {})
        table[name] = value
    return root


def to_json(settings: Settings) -> str:
    return json.dumps(nested(settings), indent=2, ensure_ascii=False) + "\n"


def to_yaml(settings: Settings) -> str:
    """Raises MissingExtra where the library for it is not installed."""
    extras.need("ruamel.yaml")
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(nested(settings), text)
    return text.getvalue()


def to_toml(settings: Settings) -> str:
    """Raises MissingExtra where the library for it is not installed."""
    extras.need("tomlkit")
    import tomlkit

    return tomlkit.dumps(nested(settings))


RENDER: dict[str, Callable[[Settings], str]] = {"json": to_json, "yaml": to_yaml, "toml": to_toml}
