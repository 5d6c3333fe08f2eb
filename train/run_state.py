"""What an interrupted run resumes from: weights, optimizer and place, written whole or not at all.

A state is a folder `state-STEP` in the run's work folder, written under another name and renamed. So whatever the
moment at which a run is killed, the newest state is a whole one. Its tensors are a checkpoint of PyTorch's own format
for distributed ones, to which each process writes the parts that it holds. `run.json` names the run that the folder
belongs to.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from toolchain.contracts.errors import SettingsError, StageError
from toolchain.contracts.manifest import write_text
from train.distributed import World

RUN = "run.json"
RECORD = "record.json"
STATE, BEST = "state-{:08d}", "best-{:08d}"


@dataclass(frozen=True)
class Identity:
    """What a run is: the key of what it makes, and what of that a person would recognise."""

    key: str
    parents: dict[str, str]
    settings: dict[str, Any]
    processes: int

    def difference(self, other: Identity) -> str | None:
        """What a run of `other` does otherwise, in words."""
        for role, digest in self.parents.items():
            if other.parents.get(role) != digest:
                return f"had another {role} ({str(other.parents.get(role))[:12]}, not {digest[:12]})"
        if other.processes != self.processes:
            return f"ran in {other.processes} processes, not {self.processes}"
        for name, value in self.settings.items():
            if other.settings.get(name) != value:
                return f"had {name} {other.settings.get(name)}, not {value}"
        return "was made by another version of fimble" if other.key != self.key else None


class RunStates:
    """The states of one run, which all its processes use together.

    Raises SettingsError when the folder holds a state of another run, which would be lost.
    """

    def __init__(self, work: Path, run: Identity, world: World) -> None:
        self._work, self._world = work, world
        if world.leads:
            self._take(run)
        world.wait()

    def _take(self, run: Identity) -> None:
        known = self._work / RUN
        if self._states():
            try:
                other = Identity(**json.loads(known.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                raise _not_resumed(self._work, "was made by another version of fimble") from None
            if difference := run.difference(other):
                raise _not_resumed(self._work, difference)
        self._work.mkdir(parents=True, exist_ok=True)
        write_text(known, json.dumps(vars(run)))

    @property
    def cache(self) -> Path:
        """Where the run may keep what can be made again."""
        return self._work / "cache"

    def save(self, step: int, tensors: Mapping[str, Tensor], record: dict[str, Any], best: int | None) -> None:
        """Keep this state in place of older ones, and of best weights only those of the step `best`.

        Raises StageError when it cannot be written.
        """
        final = self._work / STATE.format(step)
        if final.exists():
            return
        self._write(final, step, tensors, record)
        if self._world.leads:
            for older in self._states():
                if older != final:
                    shutil.rmtree(older)
            for path in self._work.glob("best-*"):
                if best is None or path.name != BEST.format(best):
                    shutil.rmtree(path)
        self._world.wait()

    def record(self) -> dict[str, Any] | None:
        """What the newest state says of its run, if there is one."""
        if not self._states():
            return None
        found: dict[str, Any] = self._read(lambda folder: json.loads((folder / RECORD).read_text(encoding="utf-8")))
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` from the newest state."""
        self._read(lambda folder: _load(tensors, folder, self._world))

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of the best evaluation so far; older ones go once a state refers to these."""
        folder = self._work / BEST.format(step)
        if folder.exists() and self._world.leads:
            shutil.rmtree(folder)  # of a run that was cut short after it, and comes here again
        self._world.wait()
        self._write(folder, step, weights, {})

    def load_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Fill `weights` with those of the best evaluation, which came after `step`."""
        _load(weights, self._work / BEST.format(step), self._world)

    def _read(self, read: Callable[[Path], Any]) -> Any:
        folder = self._states()[-1]
        try:
            return read(folder)
        except (OSError, ValueError, RuntimeError, CheckpointException) as error:
            raise StageError(
                f"the saved state {folder} cannot be read ({_reason(error)})", f"Remove {self._work} to start anew."
            ) from None

    def _write(self, final: Path, step: int, tensors: Mapping[str, Tensor], record: dict[str, Any]) -> None:
        partial = self._work / ".partial"
        try:
            if self._world.leads:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            self._world.wait()
            with _without_warnings():
                save(dict(tensors), checkpoint_id=partial, no_dist=self._world.size == 1)
            if self._world.leads:
                (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
                for path in partial.iterdir():
                    _to_disk(path)
                partial.rename(final)
            self._world.wait()
        except (OSError, RuntimeError, CheckpointException) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if _interrupted(error):
                raise KeyboardInterrupt from None
            raise StageError(
                f"the state after step {step} cannot be written to {self._work} ({_reason(error)})",
                "Free some space and run again; it goes on from the last saved state.",
            ) from None

    def _states(self) -> list[Path]:
        return sorted(self._work.glob("state-*"))


def _load(tensors: Mapping[str, Tensor], folder: Path, world: World) -> None:
    with _without_warnings():
        load(dict(tensors), checkpoint_id=folder, no_dist=world.size == 1)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PyTorch warns that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _interrupted(error: BaseException) -> bool:
    """Whether the failure that a distributed checkpoint tells of is the user's Ctrl-C."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    return any(isinstance(failure[0], KeyboardInterrupt) for failure in failures)


def _reason(error: BaseException) -> str:
    """One line; a distributed checkpoint's error holds those of the processes, with their tracebacks."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _not_resumed(work: Path, difference: str) -> SettingsError:
    return SettingsError(
        f"the run that was interrupted here {difference}",
        f"Give it what it had, to go on; or remove {work}, to start anew.",
    )
