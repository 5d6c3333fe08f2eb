"""A run that was interrupted, killed or failed goes on to the bits of an undisturbed one; another does not go on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import filesystem

from tests.train.tiny import FULL, LORA, SHAPE, Lines, fail, interrupt, opened, same, write_base, write_dataset
from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError, StageError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train
from train.run import loss
from train.settings import TrainSettings

pytestmark = pytest.mark.train

METHODS = [pytest.param(LORA, id="lora"), pytest.param(FULL, id="full")]


@pytest.mark.parametrize("settings", METHODS)
def test_an_interrupted_run_ends_with_the_same_bits(
    dataset: Path, base_folder: Path, undisturbed: dict[str, Path], tmp_path: Path, settings: TrainSettings
) -> None:
    plan = plan_train(dataset, opened(base_folder), settings)
    out = tmp_path / "out"
    for step, action, error in ((5, fail, OSError), (11, interrupt, KeyboardInterrupt)):
        listener = Lines(step, action)
        with pytest.raises(error):
            execute(plan, out, listener)
        assert "Training" not in listener.finished
    assert listener.lines[-1] == f"saved after step 11 of {settings.max_steps}"
    assert not out.exists()
    resumed = Lines()
    torch.set_num_threads(2)  # the run keeps to the number it began with, and then gives this one back
    execute(plan, out, resumed)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    # An interrupt saves the step it comes after; anything else goes back to the last saved state.
    assert "Resuming after step 11 of 12" in resumed.lines
    assert same(out, undisturbed[settings.method])
    assert manifest.read(out).digest == manifest.read(undisturbed[settings.method]).digest
    assert not list(tmp_path.glob(".out*"))


def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    dataset: Path, base_folder: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL at a bad moment: with the state of step 6 half written, and better weights kept than step 3 knows."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from tests.train.tiny import LORA, opened
        from toolchain.contracts.progress import Silent
        from toolchain.contracts.stage import execute
        from train.run import state_files
        from train.fine_tune import plan_train

        dataset, base, out = sys.argv[1:]
        calls = 0
        original = state_files._on_disk

        def die(*arguments, **keywords):
            global calls
            calls += 1
            if calls == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        state_files._on_disk = die
        execute(plan_train(Path(dataset), opened(Path(base)), LORA), Path(out), Silent())
        """
    )
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", script, str(dataset), str(base_folder), str(out)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    left = {path.name for path in (tmp_path / ".out.work").iterdir()}
    assert {"state-00000003", ".partial", "best-00000000", "best-00000004"} <= left
    execute(plan_train(dataset, opened(base_folder), LORA), out, Silent())
    assert same(out, undisturbed["lora"])
    assert manifest.read(out).digest == manifest.read(undisturbed["lora"]).digest


def test_another_run_does_not_resume_an_interrupted_one_and_says_why(
    dataset: Path, base_folder: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    base, out = opened(base_folder), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        execute(plan_train(dataset, base, LORA), out, Lines(5, interrupt))
    other_base = opened(write_base(tmp_path / "other", shape=replace(SHAPE, seed=1)))
    other_data = write_dataset(tmp_path / "data", ["x = 1\n" * 50], ["y = 2\n" * 50])
    for message, plan in (
        ("had seed 0, not 1", plan_train(dataset, base, replace(LORA, seed=1))),
        ("had another base", plan_train(dataset, other_base, LORA)),
        ("had another dataset", plan_train(other_data, base, LORA)),
    ):
        with pytest.raises(SettingsError, match=message) as caught:
            execute(plan, out, Silent())
        assert str(tmp_path / ".out.work") in caught.value.next_step
    # Nothing was lost by asking.
    listener = Lines()
    execute(plan_train(dataset, base, LORA), out, listener)
    assert "Resuming after step 5 of 12" in listener.lines
    assert same(out, undisturbed["lora"])


def test_a_loss_that_is_not_finite_stops_the_run_with_its_last_state(
    dataset: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loss.scaled_loss, 0

    def losses(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(*arguments) * (float("nan") if calls == 5 else 1.0)

    monkeypatch.setattr(loss, "scaled_loss", losses)
    with pytest.raises(StageError, match="at step 5 the loss is nan") as caught:
        execute(plan_train(dataset, opened(base_folder), LORA), tmp_path / "out", Silent())
    assert "--learning-rate" in caught.value.next_step
    assert (tmp_path / ".out.work" / "state-00000003").is_dir()
    assert not (tmp_path / "out").exists()
    # The advice, with the folder to remove that it names, works.
    lower = plan_train(dataset, opened(base_folder), replace(LORA, learning_rate=1e-3))
    with pytest.raises(SettingsError, match="had learning_rate"):
        execute(lower, tmp_path / "out", Silent())
    assert f"First remove {tmp_path / '.out.work'}" in caught.value.next_step
    shutil.rmtree(tmp_path / ".out.work")
    execute(lower, tmp_path / "out", Silent())


def test_a_full_disk_and_a_full_memory_say_what_to_do_and_leave_the_last_state_whole(
    dataset: Path,
    base_folder: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = filesystem.torch.save, 0

    def no_space(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 100:  # within the state of step 6: that of step 3 and the best weights so far are whole
            try:
                raise OSError(28, "No space left on device")
            except OSError:
                # What PyTorch's writer makes of it when it closes the file, with the cause as context alone.
                raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # noqa: B904
        original(*arguments)

    plan = plan_train(dataset, opened(base_folder), LORA)
    with monkeypatch.context() as patched:
        patched.setattr(filesystem.torch, "save", no_space)
        with pytest.raises(StageError, match=r"the state after step 6 cannot be written .*No space left") as caught:
            execute(plan, tmp_path / "out", Silent())
    assert caught.value.next_step.startswith("Free some space there, and run again; it goes on from")
    assert not list((tmp_path / ".out.work").glob(".partial*"))

    for words in (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
        "MPS backend out of memory (MPS allocated: 9.05 GB, max allowed: 9.07 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):

        def no_memory(*arguments: Any, words: str = words, **named: Any) -> None:
            raise RuntimeError(words)

        with monkeypatch.context() as patched:
            patched.setattr(loss, "scaled_loss", no_memory)
            with pytest.raises(StageError, match="memory does not suffice for 512 tokens") as caught:
                execute(plan, tmp_path / "out", Silent())
            assert "--batch-size 2 --gradient-accumulation 2" in caught.value.next_step
        with monkeypatch.context() as patched:
            patched.setattr("transformers.AutoModelForCausalLM.from_pretrained", no_memory)
            with pytest.raises(StageError, match="memory does not suffice for the base's weights") as caught:
                execute(plan, tmp_path / "out", Silent())
            assert "--method qlora" in caught.value.next_step
    listener = Lines()
    execute(plan, tmp_path / "out", listener)
    assert "Resuming after step 3 of 12" in listener.lines
    assert same(tmp_path / "out", undisturbed["lora"])
