"""A file of a source before it is read, and the folders in which nobody's own code lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

NEVER_READ = frozenset(
    {
        ".bzr",
        ".cache",
        ".eggs",
        ".fimble",
        ".git",
        ".gradle",
        ".hg",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".next",
        ".nox",
        ".nuxt",
        ".parcel-cache",
        ".pytest_cache",
        ".ruff_cache",
        ".svn",
        ".terraform",
        ".tox",
        ".venv",
        ".yarn",
        "__pycache__",
        "bower_components",
        "dist-packages",
        "node_modules",
        "site-packages",
    }
)
"""Folders of version control, dependencies and caches. Not `build`, `dist` or `venv`: packages have these names."""

MARKERS = frozenset({"CACHEDIR.TAG", "pyvenv.cfg"})
"""A folder below the root that holds one of these is a cache or a virtual environment by its own word."""

LINK = "symbolic link"
SUBMODULE = "submodule"
FOLDER = "folder of dependencies or caches"
NAME = "unusable name"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file at a path relative to its source. `pin` fixes its content; a file that is never opened has none."""

    path: str
    size: int | None
    pin: str | None


class Source(Protocol):
    """A repository or folder whose content is fixed. `skipped` counts what has no entry, by reason."""

    name: str

    @property
    def pin(self) -> str:
        """The commit of a repository, the content hash of a folder."""
        ...

    @property
    def entries(self) -> Sequence[Entry]:
        """Sorted by path."""
        ...

    @property
    def skipped(self) -> Counter[str]: ...

    @property
    def roots(self) -> Sequence[Sequence[Entry]]:
        """The files directly in the source's root, then, where it is part of a repository, those in that one's root."""
        ...

    @property
    def location(self) -> str:
        """Where this machine has it: to tell sources apart, never to be written down."""
        ...

    @property
    def note(self) -> str:
        """What the user should know about what is read, in a few words."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain JSON that names the content, without anything of this machine."""
        ...

    def read(self, entry: Entry) -> bytes:
        """The bytes of an entry. Raises StageError when they are no longer what was pinned."""
        ...


def usable(name: str) -> bool:
    """Whether the name of a file or folder can be shown, stored and joined safely."""
    return name.isprintable() and name not in ("", ".", "..")
