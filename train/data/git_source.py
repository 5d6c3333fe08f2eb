"""A Git repository as a source: the files of one commit, read from the object store.

Only objects are read. There is no checkout, so no hook, filter or other program that the repository names runs,
and what is in the working tree does not matter.
"""

from __future__ import annotations

import stat
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from dulwich.errors import ApplyDeltaError, ChecksumMismatch, FileFormatException, NotGitRepository, NotTreeError
from dulwich.object_store import MaxTreeDepthExceeded
from dulwich.objects import Blob, Commit, Tree
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from toolchain.contracts.errors import SourceError, StageError
from train.data.entries import FOLDER, LINK, MARKERS, NAME, NEVER_READ, SUBMODULE, Entry, usable

_DAMAGED = (
    ApplyDeltaError,
    AssertionError,
    ChecksumMismatch,
    FileFormatException,
    KeyError,
    MaxTreeDepthExceeded,
    NotTreeError,
    OSError,
    ValueError,
    zlib.error,
)
"""What dulwich raises for objects that are missing or broken."""


class GitSource:
    """The tree of the commit that HEAD points to, or the part of it below `folder`."""

    def __init__(self, repository: Path, name: str, folder: str = "") -> None:
        self.name = name
        self._repository = repository
        self._folder = folder
        try:
            self._repo: Any = Repo(str(repository))
        except (NotGitRepository, UnsupportedExtension, UnsupportedVersion, *_DAMAGED) as error:
            raise SourceError(
                f"{repository} is not a Git repository that can be read ({_reason(error)})",
                "Check it with `git fsck`, or name another folder.",
            ) from error
        try:
            head: bytes = self._repo.head()
        except KeyError:
            raise SourceError(f"{repository} has no commits", "Commit something first.") from None
        try:
            self._tree = self._find_tree(head)
            self.pin = head.decode("ascii")
            self.entries, self.skipped = self._list()
            self._around = self._files_of(self._repo.object_store[head].tree)
        except _DAMAGED as error:
            raise SourceError(
                f"commit {head.decode('ascii', 'replace')[:12]} of {repository} cannot be read ({_reason(error)})",
                "Check the repository with `git fsck`; a partial clone needs its missing objects fetched.",
            ) from error

    @property
    def has_folder(self) -> bool:
        """Whether HEAD has the folder that was asked for (the whole tree always exists)."""
        return self._tree is not None

    @property
    def location(self) -> str:
        return f"{self._repository}/{self._folder}"

    @property
    def note(self) -> str:
        uncommitted = "" if self._repo.bare else ", without what is not committed"
        return f"commit {self.pin[:12]}{uncommitted}"

    @property
    def roots(self) -> list[list[Entry]]:
        own = [entry for entry in self.entries if "/" not in entry.path]
        return [own, self._around] if self._folder else [own]

    def identity(self) -> dict[str, Any]:
        found = {"name": self.name, "kind": "git", "commit": self.pin}
        return found | {"folder": self._folder} if self._folder else found

    def read(self, entry: Entry) -> bytes:
        if entry.pin is None:
            raise ValueError(f"{entry.path} was not pinned")
        try:
            kind, data = self._repo.object_store.get_raw(entry.pin.encode("ascii"))
        except _DAMAGED as error:
            raise StageError(
                f"{entry.path} in commit {self.pin[:12]} of {self.name} cannot be read ({_reason(error)})",
                "Check the repository with `git fsck`, then run again.",
            ) from error
        if kind != Blob.type_num:
            raise StageError(f"{entry.path} in {self.name} is not a file", "Check the repository with `git fsck`.")
        return bytes(data)

    def _find_tree(self, head: bytes) -> bytes | None:
        store = self._repo.object_store
        commit = store[head]
        if not isinstance(commit, Commit):
            raise ValueError("HEAD is not a commit")
        tree: bytes = commit.tree
        for part in PurePosixPath(self._folder).parts:
            mode, child = {e.path: (e.mode, e.sha) for e in store[tree].items()}.get(part.encode(), (0, b""))
            if not stat.S_ISDIR(mode):
                return None
            tree = child
        return tree

    def _files_of(self, tree: bytes) -> list[Entry]:
        return [
            Entry(item.path.decode("utf-8", "replace"), None, item.sha.decode("ascii"))
            for item in self._repo.object_store[tree].items()
            if stat.S_ISREG(item.mode)
        ]

    def _list(self) -> tuple[list[Entry], Counter[str]]:
        found: list[Entry] = []
        skipped: Counter[str] = Counter()
        marked: set[str] = set()
        pending: list[tuple[str, bytes]] = [("", self._tree)] if self._tree else []
        depth_limit = self._repo.object_store.max_tree_depth
        while pending:
            prefix, identifier = pending.pop()
            if prefix.count("/") > depth_limit:
                raise MaxTreeDepthExceeded(identifier, depth_limit)
            tree = self._repo.object_store[identifier]
            if not isinstance(tree, Tree):
                raise ValueError("not a tree")
            for item in tree.items():
                name = item.path.decode("utf-8", "surrogateescape")
                path = prefix + name
                if "/" in name or not usable(name):
                    skipped[NAME] += 1
                elif stat.S_ISDIR(item.mode):
                    if name in NEVER_READ:
                        skipped[FOLDER] += 1
                    else:
                        pending.append((path + "/", item.sha))
                elif stat.S_ISLNK(item.mode):
                    skipped[LINK] += 1
                elif stat.S_ISREG(item.mode):
                    found.append(Entry(path, None, item.sha.decode("ascii")))
                    if name in MARKERS and prefix:
                        marked.add(prefix)
                else:
                    skipped[SUBMODULE] += 1
        if marked:
            found = [entry for entry in found if not entry.path.startswith(tuple(marked))]
            skipped[FOLDER] += len(marked)
        return sorted(found, key=lambda entry: entry.path), skipped


def _reason(error: Exception) -> str:
    return "an object is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
