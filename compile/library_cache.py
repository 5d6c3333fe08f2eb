"""Libraries kept between compilations: a library depends on a model's shape and not on its weights.

So all models tuned from one base share one. A library's key covers everything that decides its bytes, the sources of
our own compiler included, and the kind of machine that builds it: on another, the same code comes out in other bytes.
The cache lies in the user's cache folder and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from compile import cuda
from compile.schemes import Scheme
from toolchain.contracts import manifest, tvm_package
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.cache_folder import cache_folder
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.processors import machine
from toolchain.contracts.targets import Target, this_system

SOURCES = (
    "compile/library.py",
    "compile/metadata.py",
    "compile/devices.py",
    "compile/cuda.py",
    "compile/linker.py",
    "compile/schemes.py",
    "compile/caches/**/*.py",
    "compile/architectures/**/*.py",
    "compile/layers/**/*.py",
    "compile/kernels/**/*.py",
    "toolchain/contracts/library_metadata.py",
    "toolchain/contracts/object_archive.py",
    "toolchain/contracts/processors.py",
    "toolchain/contracts/targets.py",
)


def fetch(key: str, out: Path, build: Callable[[Path], None]) -> None:
    """Put the library at `out`: a copy of the one kept under `key`, or what `build(path)` writes, which is then kept.

    `key` covers everything that decides its content.
    """
    folder = cache_folder("libraries")
    kept = _kept(folder, key, out.suffix)
    if kept is None:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            built = Path(work) / f"library{out.suffix}"
            build(built)
            kept = folder / _name(key, built)
            os.replace(built, kept)
    shutil.copyfile(kept, out)


def key(facts: Architecture, scheme: Scheme, spec: FimSpec, target: Target) -> str:
    """The key of a library of our own compiler: the hash of everything that decides its bytes."""
    shape = {name: value for name, value in asdict(facts).items() if name != "config"}
    asked = [shape, asdict(scheme), spec.to_json(), asdict(target)]
    nvcc = cuda.nvcc_version() if target.device == "cuda" else None
    content = [*asked, tvm_package.find().version, nvcc, this_system(), machine(), _sources()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _kept(folder: Path, key: str, suffix: str) -> Path | None:
    """The library kept under `key`, if its content is still what its name says; one that is damaged goes."""
    for path in folder.glob(f"{key}-*{suffix}"):
        if path.name == _name(key, path):
            return path
        path.unlink(missing_ok=True)
    return None


def _name(key: str, library: Path) -> str:
    return f"{key}-{manifest.sha256_of(library)[:16]}{library.suffix}"


def _sources() -> str:
    """The hash of the modules that decide what a library does."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in root.glob(name)):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
