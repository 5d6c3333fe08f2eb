"""Hashes of files, remembered by path, size and time of change, so that a second look reads nothing that stayed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTLED = 2_000_000_000
"""Nanoseconds: a file changed this recently may change again within one tick of its clock, so is not remembered."""


class RememberedHashes:
    """The sha256 of files below one folder, from the last look at it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._file = cache / "hashes" / f"{key}.json"
        self._now: dict[str, list[Any]] = {}
        try:
            self._before: dict[str, list[Any]] = dict(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):  # none yet, or damaged: everything is hashed again
            self._before = {}

    def sha256(self, path: str, state: os.stat_result, hash_file: Callable[[], str]) -> str:
        """The hash of the file at `path` in the folder; `hash_file` reads it when it is not known in this state."""
        size, modified = state.st_size, state.st_mtime_ns
        known = self._before.get(path)
        sha256 = str(known[2]) if known is not None and known[:2] == [size, modified] else hash_file()
        if modified < time.time_ns() - SETTLED:
            self._now[path] = [size, modified, sha256]
        return sha256

    def save(self) -> None:
        """Remember what was asked for, and forget the rest."""
        if self._now == self._before:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, because two processes may look at one folder at the same time.
        with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False, encoding="utf-8") as stream:
            json.dump(self._now, stream)
        os.replace(stream.name, self._file)
