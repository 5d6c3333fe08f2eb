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


@pytest.fixture(scope="session")
def undisturbed(dataset: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole run with `LORA`, and one with `FULL`, by their methods."""
    from tests.train.tiny import FULL, LORA, opened
    from toolchain.contracts.progress import Silent
    from toolchain.contracts.stage import execute
    from train.fine_tune import plan_train

    folder = tmp_path_factory.mktemp("undisturbed")
    for settings in (LORA, FULL):
        execute(plan_train(dataset, opened(base_folder), settings), folder / settings.method, Silent())
    return {"lora": folder / "lora", "full": folder / "full"}
