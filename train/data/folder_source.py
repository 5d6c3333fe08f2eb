"""A plain folder as a source: its files pinned by a hash over all that may be read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import SourceError, StageError
from train.bases.remembered import RememberedHashes
from train.data.entries import FOLDER, LINK, MARKERS, NAME, NEVER_READ, UNREADABLE, Entry, usable
from train.data.languages import language_of
from train.data.licenses import is_license_file
from train.data.settings import READ_LIMIT

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FolderSource:
    """The files below a folder. Symbolic links are never followed."""

    def __init__(self, root: Path, name: str, cache: Path) -> None:
        self.name = name
        self._root = root
        self.skipped: Counter[str] = Counter()
        remembered = RememberedHashes(root, cache)
        self.entries = sorted(self._list(remembered), key=lambda entry: entry.path)
        remembered.save()
        pinned = hashlib.sha256()
        for entry in self.entries:
            if entry.pin is not None:
                pinned.update(f"{entry.path}\0{entry.pin}\n".encode())
        self.pin = pinned.hexdigest()

    @property
    def location(self) -> str:
        return str(self._root)

    @property
    def note(self) -> str:
        return "a plain folder as it is now"

    @property
    def roots(self) -> list[list[Entry]]:
        return [[entry for entry in self.entries if "/" not in entry.path]]

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "folder", "content": self.pin}

    def read(self, entry: Entry) -> bytes:
        if entry.pin is None:
            raise ValueError(f"{entry.path} was not pinned")
        try:
            data = _read(self._root / entry.path)
        except OSError as error:
            raise StageError(
                f"{entry.path} in {self.name} could be read at first and then not ({error.strerror or error})",
                "Run again once nothing changes the folder.",
            ) from error
        if hashlib.sha256(data).hexdigest() != entry.pin:
            raise StageError(
                f"{entry.path} in {self.name} changed while it was read",
                "Run again once nothing changes the folder, or commit it to Git, where a commit is read.",
            )
        return data

    def _list(self, remembered: RememberedHashes) -> list[Entry]:
        found: list[Entry] = []
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(self._root / prefix) as listing:
                    items = list(listing)
            except OSError as error:
                if not prefix:
                    raise SourceError(
                        f"{self._root} cannot be read ({error.strerror})", "Check its permissions."
                    ) from error
                self.skipped[UNREADABLE] += 1
                continue
            if prefix and any(item.name in MARKERS for item in items):
                self.skipped[FOLDER] += 1
                continue
            for item in items:
                path = prefix + item.name
                if not usable(item.name):
                    self.skipped[NAME] += 1
                elif item.is_symlink():
                    self.skipped[LINK] += 1
                elif item.is_dir(follow_symlinks=False):
                    if item.name in NEVER_READ:
                        self.skipped[FOLDER] += 1
                    else:
                        pending.append(path + "/")
                elif item.is_file(follow_symlinks=False):
                    if item.name != ".git":  # the pointer of a worktree or submodule
                        found += self._entry(path, item, remembered)
                else:
                    self.skipped[UNREADABLE] += 1  # a socket, pipe or device
        return found

    def _entry(self, path: str, item: os.DirEntry[str], remembered: RememberedHashes) -> list[Entry]:
        try:
            status = item.stat(follow_symlinks=False)
            wanted = language_of(path) is not None or ("/" not in path and is_license_file(path))
            if not wanted or status.st_size > READ_LIMIT:
                return [Entry(path, status.st_size, None)]
            pin = remembered.sha256(path, status, lambda: hashlib.sha256(_read(self._root / path)).hexdigest())
            return [Entry(path, status.st_size, pin)]
        except OSError:  # no permission, or gone since it was listed
            self.skipped[UNREADABLE] += 1
            return []


def _read(path: Path) -> bytes:
    with open(os.open(path, _OPEN_FLAGS), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        return stream.read()
