"""`fimble up`: the whole road, doing again only what is not current.

The workspace is a folder (`.fimble` beside the user's code) of finished artifacts, `KIND/KEY/`, where the key covers
parents, settings and the stage's recipe. Every step plans from the digests of the steps before it; a step whose
folder exists is current. `current` and `previous` name the two latest bundles.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import extras, manifest, tvm_package
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Manifest, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.settings import choose
from toolchain.contracts.stage import Plan, execute, is_current

if TYPE_CHECKING:
    from compile.settings import CompileSettings
    from train.bases import Base
    from train.settings import TrainSettings

KEY_CHARACTERS = 16
LOCK = "lock"
LIBRARIES = ("datasets", "peft", "safetensors", "torch", "transformers")
CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# What fimble up made; see https://bford.info/cachedir/\n"


@dataclass(frozen=True)
class UpSettings:
    base: str = "scratch"
    """The model to start from: a Hugging Face folder, a hub id, or `scratch` for a small one grown on the spot."""


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


def up(
    sources: Sequence[str],
    root: Path,
    tables: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    progress: Progress,
) -> list[Step]:
    """Bring the bundle in the workspace `root` up to date with the sources, and name it `current`.

    `tables` are those of `fimble.toml`; `flags` go to whichever settings have a field of that name. Whatever can be
    known to be wrong is refused before the first stage, by the same errors as in the stages. Raises ArtifactError when
    another process is at work in the same workspace.
    """
    from compile.bundle import plan_compile
    from compile.settings import CompileSettings
    from train.bases import open_base
    from train.data.collect import plan as plan_collect
    from train.data.settings import CollectSettings
    from train.scratch import plan_scratch
    from train.settings import FOR_SCRATCH, ScratchSettings, TrainSettings

    choice = choose(UpSettings, "up", tables, flags)
    collect = choose(CollectSettings, "collect", tables, flags)
    scratch = choose(ScratchSettings, "scratch", tables, {})
    defaults = FOR_SCRATCH if choice.base == "scratch" else {}
    train = choose(TrainSettings, "train", {"train": {**defaults, **tables.get("train", {})}}, flags)
    build = choose(CompileSettings, "compile", tables, flags)
    extras.need(*LIBRARIES)
    tvm_package.find()
    root.mkdir(parents=True, exist_ok=True)
    workspace, cache = Workspace(root, progress, []), root / "cache"
    with manifest.locked(root / LOCK, f"another fimble process is at work in {root}"):
        _mark(root)
        collecting = plan_collect(sources, collect, cache, progress)
        base = _existing_base(choice.base, train, build, cache)
        dataset = workspace.run("collect", lambda: collecting).folder
        if base is None:
            base = open_base(str(workspace.run("base", lambda: plan_scratch(dataset, scratch)).folder), cache)
        tuned = _fine_tune(workspace, dataset, base, train)
        parent = Parent(kind="checkpoint", digest=tuned.manifest.digest)
        bundle = workspace.run("compile", lambda: plan_compile(tuned.folder, parent, build))
        _point_at(root, bundle.folder)
    made = [step.stage for step in workspace.steps if step.made]
    progress.say(f"made: {', '.join(made)}" if made else "every stage is current")
    return workspace.steps


def report(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as plain JSON."""
    return [
        {"stage": s.stage, "made": s.made, "seconds": round(s.seconds, 1), "folder": str(s.folder.resolve())}
        for s in steps
    ]


def _mark(root: Path) -> None:
    """Keep a fresh workspace out of Git, and of the dataset when it lies within a source.

    A folder that holds something of the user's stays as it is.
    """
    if {path.name for path in root.iterdir()} <= {LOCK, "CACHEDIR.TAG"}:
        (root / "CACHEDIR.TAG").write_text(CACHE_TAG, encoding="utf-8")
        (root / ".gitignore").write_text("*\n", encoding="utf-8")


def _existing_base(name: str, train: TrainSettings, build: CompileSettings, cache: Path) -> Base | None:
    """The base called `name`, after a look at what training and compiling would refuse; None for one still to grow."""
    from compile.bundle import plan_compile
    from train.bases import open_base
    from train.scratch import LINEAR_LAYERS, NAME

    if name == NAME:
        train.check_layers(LINEAR_LAYERS, name)
        return None
    base = open_base(name, cache)
    train.check_layers(base.linear_layers, base.name)
    plan_compile(base.folder, base.parent, build)  # what is made of the base has its shape and its tokenizer
    return base


def _fine_tune(workspace: Workspace, dataset: Path, base: Base, settings: TrainSettings) -> Step:
    """Train, and merge unless training gave a whole checkpoint."""
    from train.adapters.merge import plan_merge
    from train.fine_tune import plan_train

    tuned = workspace.run("train", lambda: plan_train(dataset, base, settings))
    if tuned.manifest.kind == "adapter":
        return workspace.run("merge", lambda: plan_merge(tuned.folder, base))
    return tuned


def current_bundle(root: Path) -> Path:
    """The bundle that a workspace names as current. Raises ArtifactError when there is none."""
    folder = _follow(root / "current")
    if folder is None:
        raise ArtifactError(f"the workspace {root} has no current bundle", "Run fimble up first.")
    return folder


def named_artifact(folder: Path) -> Path:
    """`folder`, or its current bundle when it is a workspace. Raises ArtifactError for a workspace without one."""
    if os.path.lexists(folder / manifest.MANIFEST):
        return folder
    is_workspace = any(os.path.lexists(folder / name) for name in ("current", LOCK))
    return current_bundle(folder) if is_workspace else folder


def _follow(pointer: Path) -> Path | None:
    """Where a pointer leads: a link, or a file with a relative path where links are not to be had."""
    if pointer.is_symlink() or pointer.is_dir():
        return pointer.resolve() if manifest.is_whole(pointer) else None
    if pointer.is_file():
        folder = (pointer.parent / pointer.read_text(encoding="utf-8").strip()).resolve()
        return folder if manifest.is_whole(folder) else None
    return None


def _point_at(root: Path, bundle: Path) -> None:
    before = _follow(root / "current")
    if before == bundle.resolve():
        return
    if before is not None:
        _set_pointer(root / "previous", before)
    _set_pointer(root / "current", bundle)


def _set_pointer(pointer: Path, folder: Path) -> None:
    relative = folder.resolve().relative_to(pointer.parent.resolve())
    fresh = pointer.with_name(f".{pointer.name}.partial")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(relative, target_is_directory=True)
    except OSError:
        fresh.write_text(relative.as_posix() + "\n", encoding="utf-8")
    fresh.replace(pointer)
