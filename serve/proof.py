"""The first time that a bundle is loaded somewhere: are its files whole, and does its library compute its model?

Both verdicts are remembered in the user's cache, by the files' sizes and times, the library and this machine, so that
later starts lose nothing. What a proof is, is told in `toolchain/contracts/proof.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from serve.engine.runner import Runner
from toolchain.contracts import manifest, processors, tvm_package
from toolchain.contracts.cache_folder import cache_folder
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress
from toolchain.contracts.proof import FILE, TOLERANCE
from toolchain.contracts.targets import Target


def check_files(folder: Path, progress: Progress) -> None:
    """Raise ArtifactError, naming every file of the bundle that is not as it was written."""
    verdict = _verdict(folder, "files")
    if _remembered(verdict):
        return
    files = manifest.read(folder).files
    progress.start("checking the bundle's files", sum(file.size for file in files), "bytes")
    damaged = []
    for file in files:
        path = folder / file.path
        if not path.is_file():
            damaged.append(f"{file.path} is missing")
        elif path.stat().st_size != file.size or manifest.sha256_of(path) != file.sha256:
            damaged.append(f"{file.path} changed since it was compiled")
        progress.advance(file.size)
    progress.finish()
    if damaged:
        raise ArtifactError(
            f"{folder} is damaged: {', '.join(damaged)}",
            "Remove the folder and compile the bundle again.",
        )
    _remember(verdict)


def check_library(folder: Path, target: Target, runner: Runner) -> None:
    """Raise ArtifactError when the library for `target` computes other logits than the bundle's reference.

    The prompt goes in as one prefill and then token by token, so both kinds of kernels are checked.
    """
    verdict = _verdict(folder, target.name)
    if _remembered(verdict):
        return
    try:
        with np.load(folder / FILE, allow_pickle=False) as proof:
            ids, wanted = [int(token) for token in proof["ids"]], proof["logits"]
        steps = range(len(ids) - len(wanted) + 1, len(ids))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder / FILE} cannot be read ({error})", "Compile the bundle again.") from None
    found = [runner.forward(ids[: steps.start], 0), *(runner.forward([ids[at]], at) for at in steps)]
    off = float(np.abs(np.stack(found) - wanted).max() / np.abs(wanted).max())
    if not off <= TOLERANCE:  # NaN is no proof either
        raise ArtifactError(
            f"the library of {folder} for {target.name} computes something else than its model: its logits are off by "
            f"{off:.0%} of their range",
            "Please report this, with what `fimble inspect` says of the bundle.",
        )
    _remember(verdict)


def _verdict(folder: Path, what: str) -> str:
    """The name under which it is remembered that `what` of the bundle is right, here and as the files are now."""
    said = manifest.read(folder)
    seen = [(file.path, *_stat(folder / file.path)) for file in said.files]
    machine = [processors.machine(), processors.native().name, tvm_package.find().version]
    return hashlib.sha256(json.dumps([said.digest, str(folder), seen, what, machine]).encode()).hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    except OSError:
        return -1, -1


def _remembered(verdict: str) -> bool:
    with contextlib.suppress(OSError):
        return (cache_folder("verdicts") / verdict).is_file()
    return False


def _remember(verdict: str) -> None:
    # Where nothing can be remembered, the check is only made again.
    with contextlib.suppress(OSError):
        (cache_folder("verdicts") / verdict).touch()
