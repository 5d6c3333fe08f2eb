"""Artifacts: folders that say what they are.

An artifact is a folder with a `manifest.json`. The folder is written under a temporary name beside its
final place, the manifest last, and then renamed: what has a manifest is whole.

Two hashes, both sha256 in hex:

- the *key* covers what goes in: kind, recipe version of the stage, digests of the parents, settings.
  It can be computed before the stage runs, so the pipeline asks it whether an artifact is current.
- the *digest* covers what came out: kind, parents, settings, facts and the hash of every file, but neither
  the recipe nor the tool's version nor the time. Children name their parents by digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from toolchain.contracts.errors import ArtifactError

MANIFEST = "manifest.json"
SCHEMA = 1
REMAKE = "Remove that folder, and run the command that made it again."

Kind = Literal["dataset", "adapter", "checkpoint", "bundle"]


class Parent(BaseModel):
    """An artifact, or a foreign folder of that kind, that this one was made from."""

    model_config = ConfigDict(frozen=True)
    kind: Kind
    digest: str
    role: str = ""


class File(BaseModel):
    model_config = ConfigDict(frozen=True)
    path: str
    size: int
    sha256: str


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)
    schema_version: int = SCHEMA
    kind: Kind
    key: str
    digest: str
    parents: list[Parent]
    settings: dict[str, Any]
    facts: dict[str, Any]
    files: list[File]
    tool_version: str = ""
    created: str = ""


@dataclass
class Draft:
    """An artifact being written: files go under `path`, facts into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


def key_of(kind: Kind, recipe: int, parents: Iterable[Parent], settings: Mapping[str, Any]) -> str:
    """The hash of everything that decides an artifact's content. `recipe` is the version of the stage's code."""
    return hash_json(
        {"kind": kind, "recipe": recipe, "parents": [p.model_dump() for p in parents], "settings": dict(settings)}
    )


@contextmanager
def writing(
    out: Path, *, kind: Kind, recipe: int, parents: Sequence[Parent], settings: Mapping[str, Any]
) -> Iterator[Draft]:
    """Write an artifact to `out`: yields a draft, and seals and renames it when the block ends without an error.

    Raises ArtifactError when `out` exists already or another process is writing it.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.parent / f".{out.name}.lock"
    partial = out.parent / f".{out.name}.partial"
    with locked(lock, f"another fimble process is writing {out}"):
        try:
            refuse_existing(out)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            draft = Draft(partial)
            yield draft
            _open_to_readers(partial)
            seal(partial, kind=kind, recipe=recipe, parents=parents, settings=settings, facts=draft.facts)
            if out.exists():
                out.rmdir()  # an empty folder that the user made beforehand
            partial.rename(out)
            sync_folder(out.parent)
            shutil.rmtree(work_folder(out), ignore_errors=True)
        finally:
            # What did not get finished takes room, of which there may be none left.
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Hold the lock `file`. Raises ArtifactError, which says that it is `busy`, when another process does."""
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        file.touch()  # where no file can be made, that was the reason, and this tells it
        raise ArtifactError(busy, "Wait for it, or choose another --out.") from None
    try:
        yield
    finally:
        lock.release()


def refuse_existing(out: Path) -> None:
    """Raise ArtifactError when there is something at `out` that writing there would destroy."""
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        what = "already exists"
        with suppress(ArtifactError):  # others have files of that name too
            what = f"already holds a finished {read(out).kind}"
        raise ArtifactError(f"{out} {what}", "Choose another --out, or remove it first.")


def work_folder(out: Path) -> Path:
    """Where a stage keeps what it needs to resume; removed once `out` is whole."""
    return out.parent / f".{out.name}.work"


def seal(
    folder: Path,
    *,
    kind: Kind,
    recipe: int,
    parents: Sequence[Parent],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Manifest:
    """Hash the files below `folder` and write its manifest."""
    files = [_describe(folder, path) for path in _files_below(folder)]
    content: dict[str, Any] = {
        "kind": kind,
        "parents": [p.model_dump() for p in parents],
        "settings": dict(settings),
        "facts": dict(facts),
        "files": [f.model_dump() for f in files],
    }
    manifest = Manifest(
        **content,
        key=key_of(kind, recipe, parents, settings),
        digest=hash_json(content),
        tool_version=tool_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def read(folder: Path, kind: Kind | None = None) -> Manifest:
    """The manifest of an artifact. Raises ArtifactError when there is none, or it is of another kind."""
    path = folder / MANIFEST
    wanted = _a(kind or "Fimble artifact")
    name_one = f"Name a folder that fimble wrote as {wanted}." if kind else "Name a folder that fimble wrote."
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        missing = "does not exist" if not folder.exists() else f"is not {wanted}: it has no {MANIFEST}"
        raise ArtifactError(f"{folder} {missing}", name_one) from None
    except NotADirectoryError:
        raise ArtifactError(f"{folder} is a file", name_one) from None
    except (ValidationError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its content is another"
        # It may be another tool's, so removing it is only advised with care.
        raise ArtifactError(
            f"{path} is damaged or not fimble's ({reason})", f"{name_one} If this is one, remove it and make it again."
        ) from None
    if manifest.schema_version > SCHEMA:
        raise ArtifactError(f"{path} was written by a newer fimble ({manifest.tool_version})", "Upgrade fimble.")
    if kind and manifest.kind != kind:
        raise ArtifactError(f"{folder} is {_a(manifest.kind)}, not {_a(kind)}", f"Name {_a(kind)} folder.")
    return manifest


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a finished artifact; other tools have files of that name too."""
    try:
        read(folder)
    except ArtifactError:
        return False
    return True


def check_files(folder: Path, manifest: Manifest) -> None:
    """A quick look at the files of an artifact, which reads none. Raises ArtifactError when one cannot be whole."""
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise ArtifactError(f"{folder} is damaged: {file.path} is missing or has another size", REMAKE)


def verify(folder: Path) -> list[str]:
    """Rehash the files of an artifact; one line for each that is missing, changed or was not there before."""
    manifest = read(folder)
    problems = []
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            problems.append(f"{file.path}: missing")
        elif path.stat().st_size != file.size or sha256_of(path) != file.sha256:
            problems.append(f"{file.path}: changed since it was written")
    known = {file.path for file in manifest.files}
    problems += [f"{p}: not part of the artifact" for p in _files_below(folder) if p not in known]
    return problems


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def tool_version() -> str:
    try:
        return version("fimble")
    except PackageNotFoundError:
        return "unknown"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _files_below(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path != MANIFEST)


def _describe(folder: Path, path: str) -> File:
    full = folder / path
    return File(path=path, size=full.stat().st_size, sha256=sha256_of(full))


def hash_json(value: object) -> str:
    """The hash of plain JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _open_to_readers(folder: Path) -> None:
    """Give the files below `folder` the permissions that the user's umask gave it: safetensors writes for one alone."""
    allowed = folder.stat().st_mode & 0o666
    for path in _files_below(folder):
        (folder / path).chmod((folder / path).stat().st_mode | allowed)


def sync_folder(folder: Path) -> None:
    """Have what was renamed within `folder` outlive a power cut."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
