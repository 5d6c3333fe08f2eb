"""Where the bundles that are served come from, which may lead to others later."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, SettingsError

Stamp = tuple[Path, int, int]


@dataclass(frozen=True)
class Source:
    """`find` gives the bundle's folder as it is now; `name` is what it is served by, the bundle's own where None."""

    find: Callable[[], Path]
    name: str | None = None

    def stamp(self) -> Stamp | None:
        """What tells one bundle there from another; None while there is none."""
        try:
            folder = self.find().resolve()
            found = (folder / manifest.MANIFEST).stat()
        except (ArtifactError, OSError):
            return None
        return folder, found.st_ino, found.st_mtime_ns


def name_and_folder(bundle: str) -> tuple[str | None, Path]:
    """What a user calls a bundle to serve: a folder, which may stand behind a name and an equals sign.

    Raises SettingsError for what cannot be a name.
    """
    name, given, folder = bundle.partition("=")
    if not given or Path(bundle).exists():
        return None, Path(bundle)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SettingsError(f"'{name}' cannot be a model's name", "Use letters, digits, '.', '_' and '-'.")
    return name, Path(folder)
