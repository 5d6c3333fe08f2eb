"""One training that is at work: what it is made of, and its beginning among the processes that take part."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.manifest import Draft
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train import memory, requirements
from train.bases import added_tokens
from train.bases.base import Base
from train.running import RunSettings
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.distributed import World
    from train.run.states import RunStates
    from train.run.tracking import Tracker


@dataclass(frozen=True)
class Job:
    """One training: the base, what it is trained on and how; where its states and facts go, and who hears of it.

    `tokenizer` is the folder of the tokenizer, which may have tokens `added` to the base's; `facts` are those of the
    model that has them too.
    """

    base: Base
    added: dict[str, int]
    tokenizer: Path
    facts: Architecture
    dataset: Path
    settings: TrainSettings
    states: RunStates
    draft: Draft
    progress: Progress
    world: World
    tracker: Tracker

    def room_for_the_base(self) -> AbstractContextManager[None]:
        """Raise StageError where there is too little memory for the base while this lasts."""
        return memory.room_for("the base's weights", self.states.changed(memory.fits_the_base(self.settings)))


def begin(
    base: Base,
    dataset: Path,
    settings: TrainSettings,
    running: RunSettings,
    plan: Plan,
    draft: Draft,
    work: Path,
    progress: Progress,
) -> Job:
    """The job of `plan`, with the states of its run in the folder `work`, among the processes that work on it.

    Raises SettingsError for a device that is not there, and when a run of something else was interrupted in `work`.
    """
    from train import devices, distributed
    from train.run.identity import Identity
    from train.run.states import RunStates
    from train.run.tracking import EventFiles, Nowhere

    world = distributed.join(devices.find(running.device))
    requirements.check_processes(settings, world.size)
    requirements.check_device(settings, world.device.type)
    parents = {parent.role: parent.digest for parent in plan.parents}
    states = RunStates(work, Identity(plan.key, parents, plan.settings, world.size), world)
    kept = world.leads and running.track
    tracker = EventFiles(Path(kept) / f"{plan.kind}-{plan.key[:12]}") if kept else Nowhere()
    added, tokenizer, facts = {}, base.folder, base.facts
    if base.lacks:
        tokens, tokenizer = added_tokens.for_base(base), work / "tokenizer"
        added, facts = tokens.ids, tokens.facts
        if world.leads:
            added_tokens.write_tokenizer(base.folder, added, tokenizer)
        world.wait()
    return Job(base, added, tokenizer, facts, dataset, settings, states, draft, progress, world, tracker)
