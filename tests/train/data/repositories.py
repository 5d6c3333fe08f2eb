"""Git repositories for tests, made object by object: no git command, no user configuration."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from dulwich.objects import Blob, Commit, Tree
from dulwich.repo import Repo

AUTHOR = b"A Developer <developer@example.org>"


def commit_files(
    path: Path,
    files: Mapping[str, bytes],
    *,
    bare: bool = False,
    links: Mapping[str, bytes] = {},
    submodules: tuple[str, ...] = (),
    raw: Mapping[bytes, bytes] = {},
) -> str:
    """One more commit on HEAD that holds exactly these files. `raw` gives names in the root as bytes, unchecked."""
    if path.exists():
        repo = Repo(str(path))
    else:
        path.mkdir(parents=True)
        repo = Repo.init_bare(str(path)) if bare else Repo.init(str(path))
    store = repo.object_store

    def blob(data: bytes) -> bytes:
        made = Blob.from_string(data)
        store.add_object(made)
        return made.id

    root: dict = {}
    leaves = [(name, 0o100644, blob(data)) for name, data in files.items()]
    leaves += [(name, stat.S_IFLNK, blob(target)) for name, target in links.items()]
    leaves += [(name, 0o160000, b"1" * 40) for name in submodules]
    for name, mode, identifier in leaves:
        *folders, last = name.split("/")
        place = root
        for folder in folders:
            place = place.setdefault(folder.encode(), {})
        place[last.encode()] = (mode, identifier)
    for name, data in raw.items():
        root[name] = (0o100644, blob(data))

    def tree(place: dict) -> bytes:
        made = Tree()
        for name, item in place.items():
            made.add(name, *((0o040000, tree(item)) if isinstance(item, dict) else item))
        store.add_object(made)
        return made.id

    commit = Commit()
    commit.tree = tree(root)
    commit.author = commit.committer = AUTHOR
    commit.author_time = commit.commit_time = 1_700_000_000
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = b"made for a test"
    try:
        commit.parents = [repo.head()]
    except KeyError:
        commit.parents = []
    store.add_object(commit)
    repo.refs[repo.refs.follow(b"HEAD")[0][-1]] = commit.id
    repo.close()
    return commit.id.decode()


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def module(topic: str, functions: int = 12) -> bytes:
    """Python source of some length that resembles no other topic's."""
    parts = [
        f"def {topic}_{n}({topic}_left, {topic}_right):\n    return {topic}_left * {n} + {topic}_{n}_offset\n"
        for n in range(functions)
    ]
    return "\n\n".join(parts).encode()
