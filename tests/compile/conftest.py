"""Tiny random checkpoints, their compiled libraries, and a listener that remembers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.compile.families import random_model, write_tokenizer
from toolchain.contracts import architectures
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.manifest import Parent
from toolchain.contracts.progress import Silent
from toolchain.contracts.targets import parse_target

CheckpointOf = Callable[[str], Path]
RunnerOf = Callable[..., Any]
PARENT = Parent(kind="checkpoint", digest="0" * 64)


class Told(Silent):
    """What a stage told, by title and by line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.titles: list[str] = []

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self.titles.append(title)

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> CheckpointOf:
    """The folder of a variant's checkpoint."""
    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            random_model(variant).save_pretrained(folder)
            write_tokenizer(folder)
            made[variant] = folder
        return made[variant]

    return make


@pytest.fixture(scope="session")
def checkpoint(checkpoint_of: CheckpointOf) -> Path:
    return checkpoint_of("gpt_bigcode")


@pytest.fixture(scope="session")
def runner_of(checkpoint_of: CheckpointOf, tmp_path_factory: pytest.TempPathFactory) -> RunnerOf:
    """The compiled model of a variant in a scheme, loaded with its converted weights."""
    from compile import library, library_cache, weights
    from compile.schemes import parse_scheme
    from serve.engine.loading import load

    made: dict[tuple[str, str, bool], Any] = {}

    def make(variant: str, name: str, pages: bool = False) -> Any:
        if (variant, name, pages) not in made:
            folder, source = tmp_path_factory.mktemp(name), checkpoint_of(variant)
            facts, scheme = architectures.read(source), parse_scheme(name)
            weights.convert(source, facts, scheme, folder, Silent())
            target = parse_target("cpu")
            build = partial(library.build, facts, scheme, STARCODER, target)
            if pages:
                build(folder / "model.a", pages=True)
            else:
                key = library_cache.key(facts, scheme, STARCODER, target)
                library_cache.fetch(key, folder / "model.a", build)
            made[variant, name, pages] = load(folder / "model.a", folder)
        return made[variant, name, pages]

    return make


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and blocks so small that a tiny checkpoint has many, for one test."""
    from compile import tensor_cache, weights
    from tests.compile.conversion import in_small_pieces

    for module, name in ((tensor_cache, "SHARD_BYTES"), (weights, "BLOCK_WEIGHTS")):
        monkeypatch.setattr(module, name, getattr(module, name))
    in_small_pieces()
