"""What an interrupted run resumes from: weights, optimizer and place, written whole or not at all.

A state is a folder `state-STEP` in the run's work folder, written under another name and renamed. So whatever the
moment at which a run is killed, the newest state is a whole one. `run.json` names the run that the folder belongs to.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolchain.contracts.errors import StageError
from toolchain.contracts.manifest import write_text

RUN = "run.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"
RECORD = "record.json"
BEST = "best-{:08d}.safetensors"


@dataclass(frozen=True)
class State:
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    record: dict[str, Any]


class RunStates:
    """The states of one run. Those of another run in the same folder are of no use to it, and removed."""

    def __init__(self, work: Path, run: str) -> None:
        self._work = work
        known = work / RUN
        self.replaced = work.exists() and not (known.is_file() and json.loads(known.read_text())["run"] == run)
        if self.replaced:
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        write_text(known, json.dumps({"run": run}))

    @property
    def cache(self) -> Path:
        """Where the run may keep what can be made again."""
        return self._work / "cache"

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        optimizer: dict[str, Any],
        record: dict[str, Any],
        best: int | None,
    ) -> None:
        """Keep this state in place of older ones, and of best weights only those of the step `best`.

        Raises StageError when it cannot be written.
        """
        partial = self._work / ".state.partial"
        final = self._work / f"state-{step:08d}"
        if final.exists():
            return
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, partial / WEIGHTS)
            torch.save(optimizer, partial / OPTIMIZER)
            (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
            for path in partial.iterdir():
                _to_disk(path)
            partial.rename(final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _cannot_save(self._work, step, error) from None
        for older in self._states():
            if older != final:
                shutil.rmtree(older)
        for path in self._work.glob(BEST.replace("{:08d}", "*")):
            if best is None or path.name != BEST.format(best):
                path.unlink()

    def latest(self) -> State | None:
        """The newest state, if there is one."""
        states = self._states()
        if not states:
            return None
        folder = states[-1]
        try:
            return State(
                weights=load_file(folder / WEIGHTS),
                optimizer=torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True),
                record=json.loads((folder / RECORD).read_text(encoding="utf-8")),
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise StageError(
                f"the saved state {folder} cannot be read ({error})", f"Remove {self._work} to start anew."
            ) from None

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of the best evaluation so far; older ones go once a state refers to these."""
        path = self._work / BEST.format(step)
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, partial)
            _to_disk(partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise _cannot_save(self._work, step, error) from None

    def load_best(self, step: int) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = load_file(self._work / BEST.format(step))
        return weights

    def _states(self) -> list[Path]:
        return sorted(self._work.glob("state-*"))


def _to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _cannot_save(work: Path, step: int, error: Exception) -> StageError:
    return StageError(
        f"the state after step {step} cannot be written to {work} ({error})",
        "Free some space and run again; it goes on from the last saved state.",
    )
