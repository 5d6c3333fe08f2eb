"""Where the bundles that are served come from, which may lead to others later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError

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
