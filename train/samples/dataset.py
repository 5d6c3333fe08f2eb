"""Reading a dataset folder: its Parquet files, memory-mapped, by row.

The files are named to the library one by one: nothing else in the folder is looked at, so nothing of it can run,
and no network is asked. The memory-mapped copy lies in the run's own work folder and goes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, overload

from toolchain.contracts import manifest
from toolchain.contracts.chat.format import Message
from toolchain.contracts.errors import ArtifactError, SettingsError
from toolchain.contracts.manifest import REMAKE, Manifest
from train.memory import lacking

Split = Literal["train", "heldout"]
COLUMNS = ("repository", "path", "language", "content")
CODE, DIALOGUES = "code", "dialogues"
"""What a dataset holds, as its facts say; those of code need not say it."""


def read_manifest(dataset: Path, holds: str) -> Manifest:
    """The manifest of a dataset of code or of dialogues.

    Raises ArtifactError when it is no dataset, and SettingsError when it holds the other.
    """
    found = manifest.read(dataset, "dataset")
    if (held := found.facts.get("holds", CODE)) != holds:
        step = "Add --objective chat" if held == DIALOGUES else "Leave out --objective chat"
        raise SettingsError(
            f"{dataset} holds {held}, and this training needs {holds}", f"{step}, or name a dataset of {holds}."
        )
    return found


def open_texts(dataset: Path, split: Split, cache: Path) -> Sequence[str]:
    """The files of a split as texts, by index. Raises ArtifactError when they cannot be read or there are none."""
    return cast("Sequence[str]", open_files(dataset, split, cache)["content"])


def open_files(dataset: Path, split: Split, cache: Path) -> Any:
    """The files of a split as rows, by index; by the name of one of `COLUMNS`, that column.

    Raises ArtifactError when they cannot be read or there are none, and the libraries' own errors where memory does
    not suffice.
    """
    rows = _open(dataset, split, cache, COLUMNS)
    if not any(text for text in rows["content"]):
        raise ArtifactError(f"the {split} split of {dataset} holds no text", REMAKE)
    return rows


@dataclass(frozen=True)
class Dialogues(Sequence[Sequence[Message]]):
    """The dialogues of a split by index, each read when it is asked for."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sequence[Message]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Message]]: ...

    def __getitem__(self, index: int | slice) -> Sequence[Any]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return [Message(**message) for message in self.rows[index]["messages"]]


def open_dialogues(dataset: Path, split: Split, cache: Path) -> Dialogues:
    """The dialogues of a split. Raises ArtifactError when they cannot be read or there are none."""
    return Dialogues(_open(dataset, split, cache, ("messages",)))


def _open(dataset: Path, split: Split, cache: Path, columns: Sequence[str]) -> Any:
    import datasets

    # Else every reading of a file would be counted at a hub.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is raised as well
    files = sorted(str(path) for path in (dataset / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise ArtifactError(f"{dataset} has no data/{split}-*.parquet", REMAKE)
    try:
        rows = datasets.load_dataset(
            "parquet", data_files={split: files}, split=split, columns=list(columns), cache_dir=str(cache)
        )
    except Exception as error:  # pyarrow's, fsspec's and datasets' own errors have no common base
        if lacking(error):
            raise  # nothing is wrong with the dataset
        for cause in (error, error.__cause__):
            if isinstance(cause, OSError) and cause.errno:  # the system's, such as a full disk, and not the dataset's
                raise cause from None
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise ArtifactError(f"the {split} split of {dataset} cannot be read ({reason})", REMAKE) from None
    if not len(rows):
        raise ArtifactError(f"the {split} split of {dataset} is empty", REMAKE)
    return rows
