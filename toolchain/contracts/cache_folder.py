"""Where Fimble keeps what it can make again: compiled libraries, and what it found out about bundles."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "FIMBLE_CACHE"


def cache_folder(name: str) -> Path:
    """The folder for things of one kind, in the user's cache or below `FIMBLE_CACHE`; made when it is not there."""
    root = os.environ.get(VARIABLE)
    folder = (Path(root) if root else user_cache_path("fimble")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
