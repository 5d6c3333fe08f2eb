"""A device computes in training what exact arithmetic gives: GPUs by `make gpu-check`, the processor always."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from tests.compile.families import FAMILIES, VARIANTS, random_model
from tests.train.samples.test_packing import random_samples
from toolchain.contracts.errors import SettingsError
from train import devices
from train.run import optimizer
from train.run.loss import Losses
from train.samples.packing import collate
from train.settings import TrainSettings

pytestmark = pytest.mark.train

DEVICES = ["cpu", *(pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda", "mps"))]
# Of the largest: sums of up to some hundred products in float32, and in bfloat16's 8 bits, over two layers.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    try:
        return devices.find(request.param)
    except SettingsError as error:
        pytest.skip(error.message)


def far(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error beside the largest value."""
    return float((found.detach().cpu().double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_losses_and_gradients_are_those_of_double_precision(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    exact = random_model(name).double()
    tried = deepcopy(exact).to(device, torch.float32)
    window, batch = VARIANTS[name].get("sliding_window"), collate([random_samples([40, 9]), random_samples([31])], 0)
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = tried(batch.ids.to(device)).logits
    assert far(logits, exact(batch.ids).logits.detach()) < TOLERANCES[dtype]
    ours, wanted = Losses(tried, dtype, window), Losses(exact, torch.float32, window)
    with torch.no_grad():
        assert far(ours(batch.to(device)), wanted(batch)) < TOLERANCES[dtype]
    ours(batch.to(device), 1.0).backward()
    wanted(batch, 1.0).backward()
    whole = max(float(weight.grad.abs().max()) for weight in exact.parameters())
    for weight, reference in zip(tried.parameters(), exact.parameters(), strict=True):
        error = float((weight.grad.cpu().double() - reference.grad).abs().max())
        assert error < TOLERANCES[dtype] * whole


def test_the_optimizer_takes_the_step_of_the_plain_formula(device: torch.device) -> None:
    """AdamW's first: a matrix shrinks by rate times decay, and all moves by the rate against the gradient's sign."""
    before, gradient = torch.linspace(-1, 1, 64, device=device), torch.linspace(-2, 3, 64, device=device)
    weights = {"matrix": torch.nn.Parameter(before.reshape(8, 8).clone()), "bias": torch.nn.Parameter(before.clone())}
    for weight in weights.values():
        weight.grad = gradient.reshape(weight.shape).clone()
    made = optimizer.make(weights, TrainSettings(weight_decay=0.1))
    for group in made.param_groups:
        group["lr"] = 1e-2
    made.step()
    for name, kept in (("matrix", 1 - 1e-3), ("bias", 1.0)):
        expected = before * kept - 1e-2 * gradient.sign()
        assert float((weights[name].detach().flatten() - expected).abs().max()) < 1e-6
