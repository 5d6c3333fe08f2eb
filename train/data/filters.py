"""Which files a model should learn from: each is kept as clean text, or dropped for a reason with a name.

Pure functions over names and bytes. Text comes out as UTF-8 without a byte order mark, with LF line ends and
without secrets; everything else in it stays as it is, also what looks like a model's control token.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pathspec import GitIgnoreSpec

from toolchain.contracts.errors import SettingsError
from train.data.languages import CONFIGURATION, NOTEBOOK, PROSE, language_of
from train.data.redact import redact
from train.data.settings import READ_LIMIT, CollectSettings

MAX_CONFIGURATION_BYTES = 64 << 10
"""Larger JSON, YAML, TOML and INI files are data, not something that a developer typed."""

LOCK_FILES = frozenset(
    {
        "bun.lock",
        "cargo.lock",
        "composer.lock",
        "conda-lock.yml",
        "flake.lock",
        "gemfile.lock",
        "go.sum",
        "mix.lock",
        "npm-shrinkwrap.json",
        "package-lock.json",
        "packages.lock.json",
        "pdm.lock",
        "pipfile.lock",
        "pixi.lock",
        "pnpm-lock.yaml",
        "podfile.lock",
        "poetry.lock",
        "pubspec.lock",
        "uv.lock",
        "yarn.lock",
    }
)

# Only in a comment near the top: a generator's own source holds these words too, as text.
_GENERATED = re.compile(
    r"""^\s*(?:\#|//|/\*|\*|--|;|<!--|%|"{3}|'{3})[^\n]*?(?:
        @generated\b
      | \bdo\ not\ (?:edit|modify)\b
      | \bauto(?:matically)?[- ]?generated\ (?:by|from|file|code|using|with)\b
      | \b(?:file|code|module)\ (?:is|was|has\ been)\ (?:auto(?:matically)?[- ]?)?generated\b
    )""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_HEAD = 1500
_LFS = b"version https://git-lfs.github.com/spec/"
_MINIFIED = re.compile(r"[.-]min\.(?:js|mjs|cjs|css)$|\.bundle\.js$", re.IGNORECASE)


@dataclass(frozen=True)
class Kept:
    """A file that goes into the dataset."""

    text: str
    language: str
    secrets: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dropped:
    """A file that does not, and why."""

    reason: str


def chooser(settings: CollectSettings) -> Callable[[str], bool]:
    """Whether a path within its repository passes the user's include and exclude patterns."""
    include, exclude = _patterns("include", settings.include), _patterns("exclude", settings.exclude)

    def chosen(path: str) -> bool:
        return (include is None or include.match_file(path)) and not (exclude is not None and exclude.match_file(path))

    return chosen


def by_name(path: str, chosen: Callable[[str], bool]) -> str | Dropped:
    """The language of a file worth opening."""
    name = PurePosixPath(path).name
    if name.lower() in LOCK_FILES:
        return Dropped("lock file")
    language = language_of(path)
    if language is None:
        return Dropped("not source text by name")
    if not chosen(path):
        return Dropped("include and exclude settings")
    if _MINIFIED.search(name):
        return Dropped("minified")
    return language


def by_size(size: int, language: str, settings: CollectSettings) -> Dropped | None:
    """Why a file of this size need not be opened, if so."""
    limit = READ_LIMIT if language == NOTEBOOK else settings.max_file_bytes
    if size > limit:
        return Dropped("too large")
    if language in CONFIGURATION and size > MAX_CONFIGURATION_BYTES:
        return Dropped("large configuration or data")
    return None


def by_content(data: bytes, language: str, settings: CollectSettings) -> Kept | Dropped:
    """The clean text of a file, or why it is dropped."""
    oversized = by_size(len(data), language, settings)
    if oversized:
        return oversized
    if data.startswith(_LFS):
        return Dropped("Git LFS pointer")
    if b"\0" in data:
        return Dropped("binary")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return Dropped("not UTF-8")
    if language == NOTEBOOK:
        notebook = reduce_notebook(text)
        if isinstance(notebook, Dropped):
            return notebook
        text, language = notebook
        if len(text.encode("utf-8", "surrogatepass")) > settings.max_file_bytes:
            return Dropped("too large")
    if not text.strip():
        return Dropped("empty")
    if _GENERATED.search(text[:_HEAD]):
        return Dropped("generated")
    lines = text.splitlines()
    if max(map(len, lines)) > settings.max_line_length:
        return Dropped("very long lines")
    if language not in PROSE and len(text) / len(lines) > settings.max_average_line_length:
        return Dropped("long lines on average")
    secrets: Counter[str] = Counter()
    if settings.redact_secrets:
        text, secrets = redact(text)
    return Kept(text, language, secrets)


def reduce_notebook(text: str) -> tuple[str, str] | Dropped:
    """The code of a Jupyter notebook and its language; cells of shell commands or captured output are left out."""
    try:
        notebook = json.loads(text)
        cells = ["".join(cell["source"]).strip("\n") for cell in notebook["cells"] if cell.get("cell_type") == "code"]
        metadata = notebook.get("metadata", {})
        language = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return Dropped("not a readable notebook")
    code = [cell for cell in cells if cell.strip() and not cell.startswith("!") and "%%capture" not in cell]
    joined = "\n\n".join(code) + "\n" if code else ""
    if any("\ud800" <= character <= "\udfff" for character in joined):  # a JSON escape can spell half a character
        return Dropped("not UTF-8")
    return joined, "Python" if not isinstance(language, str) or language.lower() == "python" else language


def _patterns(name: str, lines: tuple[str, ...]) -> GitIgnoreSpec | None:
    if not lines:
        return None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise SettingsError(f"--{name} holds a bad pattern: {error}", "Write it as in a .gitignore file.") from None
