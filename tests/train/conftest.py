from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.train.tiny import HELD_OUT, TRAIN, library_texts, write_dataset

    folder = tmp_path_factory.mktemp("dataset") / "tiny"
    return write_dataset(folder, library_texts(TRAIN), library_texts(HELD_OUT))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.train.tiny import write_base

    return write_base(tmp_path_factory.mktemp("base") / "tiny-base")
