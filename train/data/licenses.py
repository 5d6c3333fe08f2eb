"""The licence of a repository, as an SPDX identifier, from its licence files or its package metadata.

Texts are recognised by phrases that only they hold. Several licence files are joined with AND, the cautious
reading. `unknown` is a licence text that is not recognised, `none` a repository without one.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

UNKNOWN = "unknown"
NONE = "none"
METADATA = ("pyproject.toml", "Cargo.toml", "package.json")

_FILE = re.compile(r"(?:un)?licen[cs]e(?:s)?(?:[-._].*)?|copying(?:[-._].*)?", re.IGNORECASE)

# In lower case without commas, since projects differ there. The first match wins.
_TITLES = (
    ("AGPL-3.0", "gnu affero general public license version 3"),
    ("LGPL-3.0", "gnu lesser general public license version 3"),
    ("LGPL-2.1", "gnu lesser general public license version 2.1"),
    ("LGPL-2.0", "gnu library general public license version 2"),
    ("GPL-3.0", "gnu general public license version 3"),
    ("GPL-2.0", "gnu general public license version 2"),
    ("Apache-2.0", "apache license version 2.0"),
    ("MPL-2.0", "mozilla public license version 2.0"),
    ("EPL-2.0", "eclipse public license - v 2.0"),
    ("BUSL-1.1", "business source license 1.1"),
    ("BSL-1.0", "boost software license - version 1.0"),
    ("CC0-1.0", "cc0 1.0 universal"),
)
"""Licences known by their title. Other licences quote it further down, so it counts near the top only."""

_PHRASES = (
    ("PSF-2.0", "python software foundation license version 2"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
    ("WTFPL", "do what the fuck you want to public license"),
    ("Zlib", "this notice may not be removed or altered from any source distribution"),
    ("ISC", "permission to use copy modify and/or distribute this software for any purpose"),
    ("ISC", "permission to use copy modify and distribute this software for any purpose"),
    ("MIT", "permission is hereby granted free of charge to any person obtaining a copy"),
    ("BSD-3-Clause", "endorse or promote products derived from this software"),
    ("BSD-2-Clause", "redistribution and use in source and binary forms"),
)
_TOP = 2000


def is_license_file(name: str) -> bool:
    """Whether a file in the root of a repository holds its licence, by its name."""
    return _FILE.fullmatch(name) is not None


def license_of(files: Mapping[str, bytes]) -> str:
    """The licence of a repository from the licence files and package metadata in its root, by name."""
    texts = {name: data for name, data in files.items() if is_license_file(name)}
    found = sorted({text for data in texts.values() if (text := recognise(data.decode("utf-8", "replace")))})
    stated = next((text for name in METADATA if name in files and (text := _from_metadata(name, files[name]))), None)
    return " AND ".join(found) or stated or (UNKNOWN if texts else NONE)


def recognise(text: str) -> str | None:
    """The SPDX identifier of a licence text; None when no known phrase is in it."""
    words = " ".join(text.lower().replace(",", " ").split())
    top = words[:_TOP]
    by_title = (name for name, title in _TITLES if title in top)
    by_phrase = (name for name, phrase in _PHRASES if phrase in words)
    return next(by_title, None) or next(by_phrase, None)


def is_excluded(license_name: str, excluded: Sequence[str]) -> bool:
    """Whether any licence of an SPDX expression matches one of the excluded patterns."""
    parts = [part for part in re.split(r"[\s()/]+", license_name) if part and part not in ("AND", "OR", "WITH")]
    return any(fnmatchcase(part.lower(), pattern.lower()) for part in parts for pattern in excluded)


def _from_metadata(name: str, data: bytes) -> str | None:
    try:
        if name == "package.json":
            stated = json.loads(data).get("license")
            stated = stated.get("type") if isinstance(stated, dict) else stated
        else:
            tables = tomllib.loads(data.decode("utf-8"))
            stated = tables.get("project" if name == "pyproject.toml" else "package", {}).get("license")
            stated = stated.get("text") if isinstance(stated, dict) else stated
    except (ValueError, RecursionError, AttributeError):
        return None  # the project's own tools will complain; here it states no licence
    # An expression, not a whole text that somebody put into the field.
    return stated.strip() if isinstance(stated, str) and re.fullmatch(r"[\w.+() -]{2,80}", stated.strip()) else None
