"""Which files training never sees: decided by a hash of their name, so that a file stays on its side as others come.

Duplicates are gone before the split, so a cluster cannot lie on both sides: one of its files is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from toolchain.contracts.errors import SourceError
from train.data.settings import HeldoutUnit


def heldout(files: Sequence[tuple[str, str]], fraction: float, unit: HeldoutUnit) -> list[bool]:
    """For each file, as repository and path, whether it is held out: at least one is, and at least one is not.

    Raises SourceError when there are fewer than two files, or repositories where these are the unit.
    """
    names = [repository if unit == "repository" else f"{repository}\0{path}" for repository, path in files]
    known = len(set(names))
    if known < 2:
        if unit == "repository":
            raise SourceError(
                "holding out whole repositories needs at least two with files in the dataset",
                "Name more sources, or use --heldout-unit file.",
            )
        raise SourceError(
            f"the dataset needs two files of source code, to train on and to evaluate with, and has {known}",
            "Name more sources, or loosen the filters.",
        )
    out = heldout_names(names, fraction)
    return [name in out for name in names]


def heldout_names(names: Iterable[str], fraction: float) -> set[str]:
    """Those of at least two names whose hash is below `fraction`: at least one is, and at least one is not."""
    ranked = sorted(set(names), key=_position)
    count = sum(_position(name) < fraction for name in ranked)
    return set(ranked[: min(max(count, 1), len(ranked) - 1)])


def rule(fraction: float, unit: HeldoutUnit) -> str:
    """The rule in words, for the manifest and the dataset's card."""
    what = "repository" if unit == "repository" else "file"
    by = "the repository's name" if unit == "repository" else "the repository's name and the path"
    return (
        f"A {what} is held out when the sha256 of {by}, as a fraction, is below {fraction:g}; "
        "at least one is on each side. "
        "Duplicates are removed before, across both sides."
    )


def _position(name: str) -> float:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
