"""From what the user names to a source: a path in a Git repository, a plain folder, or the address of a repository."""

from __future__ import annotations

from pathlib import Path

from toolchain.contracts.errors import SourceError
from toolchain.contracts.progress import Progress
from train.data.entries import Source
from train.data.fetch import fetch, is_url, name_of
from train.data.folder_source import FolderSource
from train.data.git_source import GitSource


def open_source(spec: str, cache: Path, progress: Progress) -> Source:
    """The source called `spec`, its content pinned. Raises SourceError when there is nothing to read.

    `cache` keeps fetched repositories and hashes of files.
    """
    if not spec.strip():
        raise SourceError("the name of a source is empty", "Name a folder, a Git repository or its address.")
    if is_url(spec):
        return GitSource(fetch(spec, cache, progress), name_of(spec))
    return _open_path(spec, cache)


def _open_path(spec: str, cache: Path) -> Source:
    try:
        path = Path(spec).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # not there, a loop of links, no such user, a NUL in the name
        raise SourceError(f"{spec!r} does not exist", "Name a folder, a Git repository or its address.") from None
    if not path.is_dir():
        raise SourceError(f"{path} is a file", "Name the folder or Git repository that holds it.")
    if (path / ".git").exists() or _is_bare(path):
        return GitSource(path, _name(path))
    root = next((parent for parent in path.parents if _is_repository(parent / ".git")), None)
    if root is not None:
        part = _committed_part(root, path)
        if part is not None:
            return part
    source = FolderSource(path, _name(path), cache)
    if not source.entries:
        raise SourceError(f"{path} holds no files", "Name a folder with source code.")
    return source


def _committed_part(root: Path, path: Path) -> GitSource | None:
    """The folder `path` as HEAD of the repository around it has it; None when it is not under version control."""
    try:
        part = GitSource(root, _name(path), path.relative_to(root).as_posix())
    except SourceError:  # a repository around the user's folder need not be one that they mean
        return None
    return part if part.has_folder else None


def _is_repository(git: Path) -> bool:
    return git.is_file() or (git / "HEAD").is_file()


def _is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def _name(path: Path) -> str:
    name = (path.parent.name if path.name == ".git" else path.name.removesuffix(".git")) or "root"
    return "".join(character if character.isprintable() else "?" for character in name)
