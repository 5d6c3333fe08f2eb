"""The folder that `up` works in (`.fimble` beside the user's code): finished artifacts, and what names the bundles.

Artifacts lie under `KIND/KEY/`, where the key covers parents, settings and the stage's recipe. `current` and `previous`
name the two latest bundles.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Kind, Manifest
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan, execute, is_current

KEY_CHARACTERS = 16
LOCK, CURRENT, PREVIOUS = "lock", "current", "previous"
CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# What fimble up made; see https://bford.info/cachedir/\n"


@dataclass(frozen=True)
class Step:
    """One stage of a finished run."""

    stage: str
    made: bool
    seconds: float
    folder: Path
    manifest: Manifest


@dataclass
class Workspace:
    """The folder of artifacts, and the steps taken in it."""

    root: Path
    progress: Progress
    steps: list[Step]

    def place(self, plan: Plan) -> Path:
        return self.root / plan.kind / plan.key[:KEY_CHARACTERS]

    def run(self, stage: str, make_plan: Callable[[], Plan]) -> Step:
        """Plan a stage and execute it unless it is current."""
        begun = time.monotonic()
        plan = make_plan()
        folder = self.place(plan)
        current = self._is_current(plan, folder)
        made = execute(plan, folder, self.progress)
        step = Step(stage, not current, time.monotonic() - begun, folder, made)
        self.steps.append(step)
        word = "made" if step.made else "current"
        self.progress.say(f"{stage:<8} {word:<8} {step.seconds:7.1f} s   {folder}")
        return step

    def _is_current(self, plan: Plan, folder: Path) -> bool:
        """Whether the step at `folder` is current. A damaged one is removed: it can be made again."""
        try:
            if is_current(plan, folder):
                return True
            damage = f"{folder} is damaged"
        except ArtifactError as error:
            damage = error.message
        if os.path.lexists(folder):
            self.progress.say(f"{damage}: making it again")
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink()
        return False


@contextmanager
def hold(root: Path) -> Iterator[None]:
    """Hold the workspace, made if need be. Raises ArtifactError when another process is at work in it."""
    root.mkdir(parents=True, exist_ok=True)
    with manifest.locked(root / LOCK, f"another fimble process is at work in {root}"):
        _mark(root)
        yield


def current_bundle(root: Path) -> Path:
    """The bundle that a workspace names as current. Raises ArtifactError when there is none."""
    folder = _follow(root / CURRENT)
    if folder is None:
        raise ArtifactError(f"the workspace {root} has no current bundle", "Run fimble up first.")
    return folder


def named_artifact(folder: Path) -> Path:
    """`folder`, or its current bundle when it is a workspace. Raises ArtifactError for a workspace without one."""
    if os.path.lexists(folder / manifest.MANIFEST):
        return folder
    return current_bundle(folder) if is_workspace(folder) else folder


def is_workspace(folder: Path) -> bool:
    """Whether `up` worked in `folder`."""
    return any(os.path.lexists(folder / name) for name in (CURRENT, LOCK))


def point_at(root: Path, bundle: Path) -> None:
    """Name the bundle as current, and the one that was as previous."""
    before = _follow(root / CURRENT)
    if before == bundle.resolve():
        return
    if before is not None:
        _set_pointer(root / PREVIOUS, before)
    _set_pointer(root / CURRENT, bundle)


def prune(root: Path) -> dict[str, Any]:
    """Remove the artifacts that neither the current bundle nor the previous one was made from; which, and how large.

    Raises ArtifactError when there is no current bundle, or another process is at work.
    """
    current_bundle(root)
    with hold(root):
        bundles = filter(None, (_follow(root / name) for name in (CURRENT, PREVIOUS)))
        found = _artifacts(root)
        kept, pending = set(), [manifest.read(bundle).digest for bundle in bundles]
        while pending:
            kept.add(digest := pending.pop())
            pending += [parent.digest for _, known in found if known.digest == digest for parent in known.parents]
        stale = [(folder, known) for folder, known in found if known.digest not in kept]
        for folder, _ in stale:
            shutil.rmtree(folder)
    size = sum(file.size for _, known in stale for file in known.files)
    return {"removed": [str(folder.resolve()) for folder, _ in stale], "bytes": size}


def _artifacts(root: Path) -> list[tuple[Path, Manifest]]:
    """What `up` made in the workspace. Others may keep folders of such names in the same place."""
    found = []
    for folder in sorted(path for kind in get_args(Kind) for path in root.glob(f"{kind}/*")):
        with suppress(ArtifactError):
            known = manifest.read(folder)
            if folder.name == known.key[:KEY_CHARACTERS] and not folder.is_symlink():
                found.append((folder, known))
    return found


def _follow(pointer: Path) -> Path | None:
    """Where a pointer leads: a link, or a file with a relative path where links are not to be had."""
    if pointer.is_symlink() or pointer.is_dir():
        return pointer.resolve() if manifest.is_whole(pointer) else None
    if pointer.is_file():
        folder = (pointer.parent / pointer.read_text(encoding="utf-8").strip()).resolve()
        return folder if manifest.is_whole(folder) else None
    return None


def _set_pointer(pointer: Path, folder: Path) -> None:
    relative = folder.resolve().relative_to(pointer.parent.resolve())
    fresh = pointer.with_name(f".{pointer.name}.partial")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(relative, target_is_directory=True)
    except OSError:
        fresh.write_text(relative.as_posix() + "\n", encoding="utf-8")
    fresh.replace(pointer)


def _mark(root: Path) -> None:
    """Keep a fresh workspace out of Git, and of the dataset when it lies within a source.

    A folder that holds something of the user's stays as it is.
    """
    if {path.name for path in root.iterdir()} <= {LOCK, "CACHEDIR.TAG"}:
        (root / "CACHEDIR.TAG").write_text(CACHE_TAG, encoding="utf-8")
        (root / ".gitignore").write_text("*\n", encoding="utf-8")
