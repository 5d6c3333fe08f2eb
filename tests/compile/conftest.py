"""Tiny random checkpoints, and their compiled libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.compile.families import random_model, write_tokenizer
from toolchain.contracts import architectures
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.progress import Silent
from toolchain.contracts.targets import parse_target

CheckpointOf = Callable[[str], Path]
RunnerOf = Callable[..., object]


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

    made: dict[tuple[str, str, bool], object] = {}

    def make(variant: str, name: str, pages: bool = False) -> object:
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
