"""Wherever memory runs out in a training, one line says which kind of it, for what, and what to do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.tiny import FULL, opened
from toolchain.contracts.errors import StageError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train import memory
from train.bases import models, writing
from train.distributed import World
from train.fine_tune import plan_train
from train.settings import TrainSettings

pytestmark = pytest.mark.train

PROCESSOR = RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: not enough memory: you tried to ...")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB")
THREAD = RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("where", "error", "problem", "next_step"),
    [
        ("transformers.PreTrainedModel.to", CUDA, "the GPU's memory does not suffice for the base", "--method lora"),
        ("train.bases.models.losses_of", PROCESSOR, "main memory does not suffice for the base", "--method lora"),
        ("torch.optim.AdamW.step", CUDA, "the GPU's memory .* the optimizer knows of each weight", "--method lora"),
        ("train.run.loss.scaled_loss", MemoryError(), "main memory .* for 512 tokens in one", "--batch-size 2"),
        ("train.run.loss.scaled_loss", THREAD, "the system's limit on threads .* 512 tokens", "ulimit -u"),
        ("train.bases.writing.whole_weights", PROCESSOR, "main memory .* the trained weights as a whole", "ulimit -v"),
        ("datasets.load_dataset", MemoryError("malloc of size 64 failed"), "main memory", "ulimit -v"),
        ("datasets.load_dataset", OSError(12, "Cannot allocate memory"), "main memory", "ulimit -v"),
    ],
)
def test_each_part_of_a_training_tells_what_it_lacks_and_never_advises_to_remove_data(
    dataset: Path,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
    problem: str,
    next_step: str,
) -> None:
    def no_memory(*arguments: Any, **named: Any) -> Any:
        raise error

    settings = replace(FULL, max_steps=2, evaluate_sequences=2)
    plan = plan_train(dataset, opened(base_folder), settings)
    with monkeypatch.context() as patched:
        patched.setattr(where, no_memory)
        with pytest.raises(StageError, match=problem) as caught:
            execute(plan, tmp_path / "out", Silent())
    assert next_step in caught.value.next_step
    assert str(dataset) not in str(caught.value)
    execute(plan, tmp_path / "out", Silent())


def test_a_dataset_is_not_called_damaged_where_the_system_starts_no_thread(dataset: Path, tmp_path: Path) -> None:
    """With an address space that has no room for the stack of one more, set once everything else is loaded."""
    pytest.importorskip("resource")
    script = textwrap.dedent(
        """
        import resource, sys, threading
        from pathlib import Path
        import datasets
        from train.samples import dataset
        from train.memory import lacking

        dataset.open_texts(Path(sys.argv[1]), "train", Path(sys.argv[2]) / "warm")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        threading.stack_size(256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        try:
            dataset.open_texts(Path(sys.argv[1]), "train", Path(sys.argv[2]) / "cold")
        except Exception as error:  # of whatever class a library gives it
            print(type(error).__name__, lacking(error))
        """
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    run = subprocess.run(
        [sys.executable, "-c", script, str(dataset), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split(maxsplit=1)[1].strip() == memory.THREADS


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), memory.GPU),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, max allowed: 9.07 GB)"), memory.GPU),
        (RuntimeError("Invalid buffer size: 40.00 GiB"), memory.GPU),
        (RuntimeError("std::bad_alloc"), memory.MAIN),
        (OSError('Error while serializing: IoError(Os { code: 12, message: "Cannot allocate memory" })'), memory.MAIN),
        (ValueError("shapes (3,4) and (5,6) not aligned"), None),
        (StageError("the memory is out of memory"), None),
    ],
)
def test_what_an_error_says_there_is_too_little_of(error: Exception, lack: str | None) -> None:
    assert memory.lacking(error) == lack
    wrapped = RuntimeError("An error occurred while generating the dataset")
    wrapped.__cause__ = error
    assert memory.lacking(wrapped) == lack


def test_errors_that_came_of_each_other_are_looked_at_once() -> None:
    cause = OSError(28, "No space left on device")
    error = RuntimeError("An error occurred while generating the dataset")
    error.__cause__, cause.__context__ = cause, error
    assert list(memory.causes(error)) == [error, cause]
    assert memory.lacking(error) is None


def test_only_the_process_that_writes_puts_the_weights_together(base_folder: Path) -> None:
    device = torch.device("cpu")
    model = models.open_model(base_folder, torch.float32, device)
    assert writing.whole_weights(model, World(1, 2, device)) == {}
    kept = writing.whole_weights(model, World(0, 2, device))
    assert kept.keys() == dict(model.named_parameters()).keys()
    # One process on a processor has them in main memory already, and needs no second copy.
    assert all(kept[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ({"batch_size": 8, "gradient_accumulation": 2}, "--batch-size 4 --gradient-accumulation 4"),
        ({"batch_size": 3, "gradient_accumulation": 1}, "--batch-size 1 --gradient-accumulation 3"),
        ({}, "--gradient-checkpointing;"),
        ({"gradient_checkpointing": True}, "--method qlora"),
        ({"gradient_checkpointing": True, "method": "full"}, "--method lora, or --launcher torchrun"),
        ({"gradient_checkpointing": True, "method": "qlora"}, "--sequence-length 1024"),
        ({"gradient_checkpointing": True, "method": "qlora", "sequence_length": 512}, "a smaller base"),
    ],
)
def test_where_memory_does_not_suffice_the_cheapest_change_is_named(values: dict[str, Any], fits: str) -> None:
    settings = TrainSettings(**{"batch_size": 1, **values})
    assert fits in memory.fits_a_step(settings, World(0, 1, torch.device("cpu")))
