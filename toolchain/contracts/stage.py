"""A stage about to run: what decides its content, and how to write it.

Every stage module gives a function that looks at its inputs and returns a `Plan`; `execute` turns a plan into a
finished folder. So the command line and the pipeline treat all stages alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Draft, Kind, Manifest, Parent
from toolchain.contracts.progress import Progress


@dataclass(frozen=True)
class Plan:
    """`write(draft, work, progress)` fills `draft.path` and `draft.facts`.

    `work` is a folder that outlives an interruption, where the stage may keep what it needs to resume (it is not
    created beforehand, and is removed once the artifact is whole). `settings` is plain JSON and holds everything
    that changes the content; `recipe` goes up when the stage's code would write something else for the same inputs.
    """

    kind: Kind
    recipe: int
    parents: tuple[Parent, ...]
    settings: dict[str, Any]
    write: Callable[[Draft, Path, Progress], None]

    @property
    def key(self) -> str:
        return manifest.key_of(self.kind, self.recipe, self.parents, self.settings)


def is_current(plan: Plan, out: Path) -> bool:
    """Whether `out` already holds exactly what `plan` would write. Raises ArtifactError when it did and is damaged."""
    try:
        found = manifest.read(out)
    except ArtifactError:  # nothing, or nothing of ours
        return False
    if found.key == plan.key:
        manifest.check_files(out, found)
    return found.key == plan.key


def execute(plan: Plan, out: Path, progress: Progress) -> Manifest:
    """Write the artifact of `plan` to `out`, or leave it as it is when it is current.

    Raises ArtifactError when `out` holds anything else, or is damaged.
    """
    if not is_current(plan, out):
        with manifest.writing(
            out, kind=plan.kind, recipe=plan.recipe, parents=plan.parents, settings=plan.settings
        ) as draft:
            plan.write(draft, manifest.work_folder(out.resolve()), progress)
    return manifest.read(out, plan.kind)
