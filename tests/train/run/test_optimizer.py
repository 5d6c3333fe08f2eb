"""bitsandbytes' optimizers: AdamW's arithmetic, with other states, which a resumed run has to the bit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.tiny import LORA, Lines, opened, without
from toolchain.contracts.errors import MissingExtra, SettingsError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train import distributed
from train.distributed import World
from train.fine_tune import plan_train
from train.run import optimizer
from train.settings import OptimizerName, TrainSettings

pytestmark = pytest.mark.train
pytest.importorskip("bitsandbytes", reason="needs the qlora extra")

OTHERS: list[OptimizerName] = ["paged_adamw_32bit", "adamw_8bit"]


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape)) for name, shape in {"m": (64, 80), "s": (8, 9), "b": (7,)}.items()
    }


def step(made: object, trained: dict[str, Tensor], number: int) -> None:
    torch.manual_seed(number)
    for weight in trained.values():
        weight.grad = torch.randn_like(weight)
    for group in made.param_groups:
        group["lr"] = 0.01 / number
    made.step()


def after(name: OptimizerName, steps: int) -> tuple[object, dict[str, Tensor]]:
    trained = weights()
    made = optimizer.make(trained, TrainSettings(optimizer=name, weight_decay=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(1, steps + 1):
            step(made, trained, number)
    return made, trained


@pytest.mark.parametrize(("name", "apart"), [("paged_adamw_32bit", 1e-6), ("adamw_8bit", 0.02)])
def test_the_arithmetic_is_that_of_pytorchs_adamw(name: OptimizerName, apart: float) -> None:
    ours, theirs, first = after(name, 8)[1], after("adamw", 8)[1], weights()
    for part, weight in theirs.items():
        assert float((weight - first[part]).detach().abs().max()) > 0.02
        assert float((weight - ours[part]).detach().abs().max()) < apart
        assert float((weight - ours[part]).detach().abs().mean()) < apart / 10


@pytest.mark.parametrize("name", ["adamw", *OTHERS])
def test_a_saved_state_goes_on_to_the_bit(name: OptimizerName) -> None:
    stopped, trained = after(name, 5)
    saved = {key: value.detach().clone() for key, value in {**trained, **optimizer.states(stopped, trained)}.items()}
    again = weights()
    resumed = optimizer.make(again, TrainSettings(optimizer=name, weight_decay=0.1))
    optimizer.prepare(resumed, 5)
    empty = {**again, **optimizer.states(resumed, again)}
    assert empty.keys() == saved.keys()
    with torch.no_grad():
        for key, value in empty.items():
            value.copy_(saved[key])
    for number in (6, 7):
        step(stopped, trained, number)
        step(resumed, again, number)
    assert all(torch.equal(weight, again[part]) for part, weight in trained.items())


def test_the_states_of_matrices_are_in_8_bits() -> None:
    made, trained = after("adamw_8bit", 1)
    kinds = {key: value.dtype for key, value in optimizer.states(made, trained).items() if "state" in key}
    assert kinds["m/state1"] == kinds["m/state2"] == torch.uint8
    assert kinds["s/state1"] == kinds["b/state2"] == torch.float32


def test_what_is_not_paged_is_told(dataset: Path, base_folder: Path, tmp_path: Path) -> None:
    listener = Lines()
    settings = replace(LORA, optimizer="paged_adamw_32bit", max_steps=1, warmup_steps=1)
    execute(plan_train(dataset, opened(base_folder), settings), tmp_path / "out", listener)
    assert any(line.startswith("optimizer: paged_adamw_32bit pages nothing here") for line in listener.lines)


def test_several_processes_have_no_whole_weights(
    dataset: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "join", lambda device: World(0, 2, device))
    plan = plan_train(dataset, opened(base_folder), replace(LORA, optimizer="adamw_8bit"))
    with pytest.raises(
        SettingsError, match="--optimizer adamw_8bit works on whole weights, and 2 processes have parts"
    ):
        execute(plan, tmp_path / "out", Silent())


def test_without_bitsandbytes_they_are_refused_before_the_work(
    dataset: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "bitsandbytes")
    with pytest.raises(MissingExtra, match="bitsandbytes is not installed"):
        plan_train(dataset, opened(base_folder), replace(LORA, optimizer="paged_adamw_32bit"))
