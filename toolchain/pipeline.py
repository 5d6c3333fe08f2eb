"""`fimble up`: the whole road, doing again only what is not current.

Every step plans from the digests of the steps before it; a step whose folder is in the workspace already is current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import extras, tvm_package
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.manifest import Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.settings import choose
from toolchain.workspace import Step, Workspace, hold, point_at

if TYPE_CHECKING:
    from compile.settings import CompileSettings
    from train.bases.base import Base
    from train.running import RunSettings
    from train.scratch_settings import ScratchSettings
    from train.settings import TrainSettings

LIBRARIES = ("datasets", "peft", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class UpSettings:
    base: str = "scratch"
    """The model to start from: a Hugging Face folder, a hub id, or `scratch` for a small one grown on the spot."""


def up(
    sources: Sequence[str],
    root: Path,
    tables: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    progress: Progress,
    grow_on: Sequence[str] = (),
) -> list[Step]:
    """Bring the bundle in the workspace `root` up to date with the sources, and name it `current`.

    The base `scratch` is grown on a dataset of the sources `grow_on`, or without any on that of `sources`. `tables` are
    those of `fimble.toml`; `flags` go to whichever settings have a field of that name. Whatever can be known to be
    wrong is refused before the first stage, by the same errors as in the stages. Raises ArtifactError when another
    process is at work in the same workspace.
    """
    from compile.bundle import plan_compile
    from compile.settings import CompileSettings
    from train.bases.base import open_base
    from train.data.collect import plan as plan_collect
    from train.data.settings import CollectSettings
    from train.defaults import beneath
    from train.running import RunSettings
    from train.scratch import plan_scratch
    from train.scratch_settings import FOR_SCRATCH, ScratchSettings
    from train.settings import TrainSettings

    choice = choose(UpSettings, "up", tables, flags)
    collect = choose(CollectSettings, "collect", tables, flags)
    scratch = choose(ScratchSettings, "scratch", tables, {})
    if choice.base == "scratch":
        sized = FOR_SCRATCH | {"sequence_length": min(FOR_SCRATCH["sequence_length"], scratch.context_size)}
        flags = beneath(sized, tables.get("train", {}), flags)
    train = choose(TrainSettings, "train", tables, flags)
    if train.objective == "chat":
        raise SettingsError(
            "up collects code, and --objective chat learns from dialogues",
            "Use fimble dialogues, train, merge and compile, one after another.",
        )
    running = choose(RunSettings, "run", {}, flags)
    running.check()
    build = choose(CompileSettings, "compile", tables, flags)
    extras.need(*LIBRARIES)
    tvm_package.find()
    workspace, cache = Workspace(root, progress, []), root / "cache"
    with hold(root):
        collecting = plan_collect(sources, collect, cache, progress)
        base = _existing_base(choice.base, scratch, train, build, cache)
        dataset = workspace.run("collect", lambda: collecting).folder
        if base is None:
            general = dataset
            if grow_on:
                general = workspace.run("general", lambda: plan_collect(grow_on, collect, cache, progress)).folder
            base = open_base(str(workspace.run("base", lambda: plan_scratch(general, scratch, running)).folder), cache)
        tuned = _fine_tune(workspace, dataset, base, train, running)
        parent = Parent(kind="checkpoint", digest=tuned.manifest.digest)
        bundle = workspace.run("compile", lambda: plan_compile(tuned.folder, parent, build))
        point_at(root, bundle.folder)
    made = [step.stage for step in workspace.steps if step.made]
    progress.say(f"made: {', '.join(made)}" if made else "every stage is current")
    return workspace.steps


def report(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as plain JSON."""
    return [
        {"stage": s.stage, "made": s.made, "seconds": round(s.seconds, 1), "folder": str(s.folder.resolve())}
        for s in steps
    ]


def _existing_base(
    name: str, scratch: ScratchSettings, train: TrainSettings, build: CompileSettings, cache: Path
) -> Base | None:
    """The base called `name`, after a look at what training and compiling would refuse; None for one still to grow."""
    from compile.bundle import check_compile
    from train.bases import added_tokens
    from train.bases.base import open_base
    from train.requirements import check_base
    from train.scratch import NAME, shape
    from train.shape import check_shape

    if name == NAME:
        check_shape(train, shape(scratch), name)
        if train.add_fim_tokens:
            added_tokens.refuse_none((), name)
        return None
    base = open_base(name, cache)
    check_base(train, base)
    check_compile(base.facts, build)  # what is made of the base has its shape
    return base


def _fine_tune(workspace: Workspace, dataset: Path, base: Base, settings: TrainSettings, running: RunSettings) -> Step:
    """Train, and merge unless training gave a whole checkpoint."""
    from train.adapters.merge import plan_merge
    from train.fine_tune import plan_train

    tuned = workspace.run("train", lambda: plan_train(dataset, base, settings, running))
    if tuned.manifest.kind == "adapter":
        return workspace.run("merge", lambda: plan_merge(tuned.folder, base))
    return tuned
