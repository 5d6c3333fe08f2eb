"""Room on the disk that weights are written to."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.contracts.errors import StageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_room(folder: Path, wanted: int) -> None:
    """Raise StageError when the disk of `folder` has fewer than `wanted` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise StageError(
            f"the disk at {_mount(folder)} has {free / 1e6:,.0f} MB free, the weights need {wanted / 1e6:,.0f} MB",
            "Free space there, or write to another disk.",
        )


@contextmanager
def explaining_full(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk, while `folder` is written, into a StageError that names the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StageError(
            f"the disk at {_mount(folder)} is full, or a quota on it is ({error.strerror})",
            "Free space there and run again, or write to another disk.",
        ) from None


def _mount(folder: Path) -> Path:
    """Where the file system of `folder` is mounted."""
    path = folder.resolve()
    return next(place for place in (path, *path.parents) if place.is_mount())
