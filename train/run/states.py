"""The states that an interrupted run resumes from.

A state is a folder `state-STEP` in the run's work folder, and `best-STEP` holds the weights of the best evaluation that
it refers to. So whatever the moment at which a run is killed, the newest state is a whole one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from toolchain.contracts.errors import StageError, reason
from train import memory
from train.distributed import World
from train.launch import worker
from train.run import identity, state_files
from train.run.identity import Identity
from train.run.state_files import Damaged

STATE, BEST = "state-{:08d}", "best-{:08d}"


@contextmanager
def kept_for_resuming(work: Path) -> Iterator[None]:
    """Where what happens meanwhile fails, keep the work folder of a run only if there is a state in it."""
    try:
        yield
    except BaseException:
        if not worker.follows() and not _states_in(work):
            shutil.rmtree(work, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Saved:
    """A whole state: its folder, and what it says of its run; of a newer one that is damaged, what is wrong with it."""

    folder: Path
    record: dict[str, Any]
    damage: str = ""


class RunStates:
    """The states of one run, which all its processes use together.

    Raises SettingsError when the folder holds a state of another run, which would be lost, or one of nobody knows what.
    """

    def __init__(self, work: Path, run: Identity, world: World) -> None:
        self._work, self._world = work, world
        if world.leads:
            identity.claim(work, run, has_states=bool(self._states()))
        world.wait()

    @property
    def cache(self) -> Path:
        """Where the run may keep what can be made again."""
        return self._work / "cache"

    def changed(self, advice: str) -> str:
        """`advice` to change a setting, with what that takes: a state of the run as it was would refuse it."""
        left = f" First remove {self._work}, from which only the old settings go on."
        return advice + (left if self._states() else "")

    def save(self, step: int, tensors: Mapping[str, Tensor], record: dict[str, Any], best: int | None) -> None:
        """Keep this state in place of older ones, and of best weights only those of the step `best`.

        Raises StageError when it cannot be written.
        """
        final = self._work / STATE.format(step)
        if self._world.agreed(final.exists()):
            return
        with self._told(step):
            state_files.write(final, tensors, {"record": record, "best": best}, self._world)
        if self._world.leads:
            for older in self._states():
                if older != final:
                    shutil.rmtree(older)
            for path in self._work.glob("best-*"):
                if best is None or path.name != BEST.format(best):
                    shutil.rmtree(path)
        self._world.wait()

    def newest(self) -> Saved | None:
        """The newest whole state, if there is one. Raises StageError when there are only damaged ones."""
        first: Damaged | None = None
        for folder in reversed(self._world.agreed(self._states())):
            try:
                content = state_files.read(folder, self._world)
                if content["best"] is not None:
                    state_files.read(self._work / BEST.format(content["best"]), self._world)
                return Saved(folder, content["record"], str(first) if first else "")
            except Damaged as damaged:
                first = first or damaged
        if first:
            raise self._damaged(str(first))
        return None

    def load(self, state: Saved, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` from a state."""
        self._load(state.folder, tensors)

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of the best evaluation so far; older ones go once a state refers to these."""
        folder = self._work / BEST.format(step)
        if self._world.leads and folder.exists():
            shutil.rmtree(folder)  # of a run that was cut short after it, and comes here again
        self._world.wait()
        with self._told(step):
            state_files.write(folder, weights, {}, self._world)

    def load_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Fill `weights` with those of the best evaluation, which came after `step`."""
        folder = self._work / BEST.format(step)
        try:
            state_files.read(folder, self._world)
        except Damaged as damaged:
            raise self._damaged(str(damaged)) from None
        self._load(folder, weights)

    def _load(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        try:
            state_files.load(folder, tensors, self._world)
        except (Exception, CheckpointException) as error:  # PyTorch's own, of many kinds
            cause = _cause(error)
            if memory.lacking(cause):
                raise cause from None
            raise self._damaged(f"{folder} cannot be loaded ({_reason(cause)})") from None

    def _damaged(self, what: str) -> StageError:
        return StageError(f"the saved state cannot be resumed: {what}", f"Remove {self._work} to start anew.")

    @contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """What cannot be written becomes one line."""
        try:
            yield
        except (OSError, RuntimeError, MemoryError, CheckpointException) as error:
            cause = _cause(error)
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            if memory.lacking(cause):
                raise memory.too_little(str(memory.lacking(cause)), "saving a state", memory.FREE_SOME) from None
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            mend = "Free some space there" if full else "See to it that files can be written there"
            goes_on = "; it goes on from the last saved state" if self._states() else ""
            raise StageError(
                f"the state after step {step} cannot be written to {self._work} ({_reason(cause)})",
                f"{mend}, and run again{goes_on}.",
            ) from None

    def _states(self) -> list[Path]:
        return _states_in(self._work)


def _states_in(work: Path) -> list[Path]:
    return sorted(work.glob("state-*"))


def _cause(error: BaseException) -> BaseException:
    """What a distributed checkpoint's error is about: it holds those of the processes, a user's Ctrl-C first.

    Of a file that could not be written PyTorch tells what became of its own format, after what the system said.
    """
    if isinstance(error, CheckpointException):
        causes = [failure[0] for failure in error.failures.values()]
        error = next((cause for cause in causes if isinstance(cause, KeyboardInterrupt)), causes[0])
    if isinstance(error, KeyboardInterrupt):
        return error
    said = (cause for cause in memory.causes(error) if isinstance(cause, OSError) and cause.errno)
    return next(said, error)


def _reason(error: BaseException) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else reason(error)
