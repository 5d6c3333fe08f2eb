"""Replacing a file of the user's: what it was is kept beside it, and it becomes the new one whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Replaced:
    """What became of a file; `backup` holds what it was before."""

    file: Path
    changed: bool
    backup: Path | None

    def told(self) -> str:
        kept = f"; what it was before: {self.backup}" if self.backup else ""
        return f"{self.file}: {f'written{kept}' if self.changed else 'is so already'}"

    def to_json(self) -> dict[str, object]:
        return {
            "file": str(self.file),
            "changed": self.changed,
            "backup": str(self.backup) if self.backup else None,
        }


def replace(file: Path, content: bytes, *, private: bool = False) -> Replaced:
    """Make `file` hold `content`. Its permissions stay; a fresh one is for its owner alone where it is `private`."""
    before = file.read_bytes() if file.exists() else None
    if before == content:
        return Replaced(file, False, None)
    file.parent.mkdir(parents=True, exist_ok=True)
    backup = None if before is None else _back_up(file, before)
    _write(file.resolve(), content, private)  # a link stays one
    return Replaced(file, True, backup)


def _back_up(file: Path, content: bytes) -> Path:
    """A copy beside the file, named with the moment, for whoever may read the file."""
    moment = f"{datetime.now():%Y-%m-%dT%H%M%S}"
    number = 0
    while True:
        backup = file.with_name(f"{file.name}.{moment}{f'-{number}' if number else ''}.bak")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(file.stat().st_mode))
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        return backup


def _write(file: Path, content: bytes, private: bool) -> None:
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600 if private else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
