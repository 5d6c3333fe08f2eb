"""One saved state as a folder: tensors and a record, written whole or not at all, and checked before they are read.

The tensors are a checkpoint of PyTorch's own format for distributed ones, to which each process writes the parts that
it holds. The record says the SHA-256 of each of its files, which each process works out of its own parts.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

from toolchain.contracts.manifest import hash_json, sha256_of, sync_folder, write_text
from train.distributed import World

RECORD = "record.json"
PARTIAL = ".partial"


class Damaged(Exception):
    """A state is not what was written; which file, and what is the matter with it."""


def write(final: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any], world: World) -> None:
    """Write the folder `final` under another name and rename it, once its files are on the disk.

    Raises OSError, RuntimeError or CheckpointException, as the system or PyTorch says it, and leaves nothing then.
    """
    partial = final.with_name(PARTIAL)
    try:
        if world.leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        world.wait()
        with _without_warnings():
            save_checkpoint(dict(tensors), checkpoint_id=partial, no_dist=world.size == 1)
        digests: dict[str, str] = {}
        for part in world.gathered({path.name: _on_disk(path) for path in _own(partial.iterdir(), world)}):
            digests |= part
        if world.leads:
            record = {"files": digests, "content": dict(content)}
            write_text(partial / RECORD, json.dumps(record | {"sha256": hash_json(record)}))
            sync_folder(partial)
            partial.rename(final)
            sync_folder(final.parent)
        world.wait()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read(folder: Path, world: World) -> dict[str, Any]:
    """What the record says, after a look at every file. Raises Damaged, in all processes, when one is not whole."""
    content: dict[str, Any] = {}
    try:
        content, digests = _read_record(folder / RECORD)
        own = _own((folder / name for name in digests), world)
        problem = next(filter(None, (_problem(path, digests[path.name]) for path in own)), "")
    except Damaged as damaged:
        problem = str(damaged)
    if problem := next(filter(None, world.gathered(problem)), ""):
        raise Damaged(problem)
    return content


def load(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill `tensors` from the folder. Raises CheckpointException and others of PyTorch's where they do not fit."""
    with _without_warnings():
        load_checkpoint(dict(tensors), checkpoint_id=folder, no_dist=world.size == 1)


def _read_record(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        record = json.loads(path.read_bytes())
        written = record.pop("sha256")
        content, digests = record["content"], record["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{path} is missing or no record") from None
    if hash_json(record) != written:
        raise Damaged(f"{path} is not what was written")
    return content, digests


def _problem(path: Path, digest: str) -> str:
    if not path.is_file():
        return f"{path} is missing"
    return "" if sha256_of(path) == digest else f"{path} is not what was written"


def _own(paths: Iterator[Path], world: World) -> Iterator[Path]:
    """Those of this process: PyTorch names its part after it, and the one that leads writes what is about all."""
    for path in paths:
        if path.name.startswith(f"__{world.rank}_") or (world.leads and not path.name.startswith("__")):
            yield path


def _on_disk(path: Path) -> str:
    """The digest of a file, once it would outlive a power cut."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
    return sha256_of(path)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PyTorch warns that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
