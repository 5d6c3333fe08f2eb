"""What only a GPU can show: run by `make gpu-check`, on whatever devices the installed TVM finds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile import library, weights
from compile.schemes import parse_scheme
from serve.engine.loading import load
from tests.compile.conftest import CheckpointOf
from tests.compile.families import FAMILIES
from toolchain.contracts import architectures
from toolchain.contracts.errors import FimbleError
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.progress import Silent
from toolchain.contracts.targets import parse_target

pytestmark = [pytest.mark.compile, pytest.mark.gpu]
IDS = [int(n) for n in np.random.default_rng(0).integers(0, 500, 50)]
# Activations and keys are float16: 2^-11 of each, over 2 layers, and products in another order.
TOLERANCE = 2e-2


@cache
def reason_against(device: str) -> str | None:
    """Why nothing can be built for and run on `device` here."""
    import tvm

    if not tvm.runtime.enabled(device):
        return f"the installed TVM has no {device}"
    return None if tvm.device(device, 0).exist else f"there is no {device} device"


@pytest.fixture(scope="module", params=["cuda", "metal", "vulkan"])
def device(request: pytest.FixtureRequest) -> str:
    reason = reason_against(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="module")
def pair(device: str, checkpoint_of: CheckpointOf, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The runners of a variant on the GPU and on the processor, with the same weights."""

    @cache
    def make(variant: str, name: str) -> tuple[Any, Any]:
        folder, source = tmp_path_factory.mktemp(device), checkpoint_of(variant)
        facts, scheme = architectures.read(source), parse_scheme(name)
        weights.convert(source, facts, scheme, folder, Silent())
        runners = []
        for target in (replace(parse_target(device), archs=("sm_80", "sm_86", "sm_89", "sm_90")), parse_target("cpu")):
            out = folder / f"{target.name}.{target.extension}"
            library.build(facts, scheme, STARCODER, target, out)
            runners.append(load(out, folder, 50))
        return runners[0], runners[1]

    return make


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("scheme", ["q4f16_1", "q8f16_1", "q0f16", "q0f32"])
def test_logits_equal_the_processors(variant: str, scheme: str, pair: Any) -> None:
    ours, wanted = (runner.score(IDS, 0) for runner in pair(variant, scheme))
    assert np.abs(ours - wanted).max() / np.abs(wanted).max() < TOLERANCE
    assert (ours.argmax(-1) == wanted.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("variant", FAMILIES)
def test_decoding_and_rolling_back_equal_a_fresh_run(variant: str, pair: Any) -> None:
    runner, _ = pair(variant, "q4f16_1")
    whole = runner.score(IDS, 0)
    runner.forward(IDS[:30], 0)
    for at in range(30, 40):
        assert np.abs(runner.forward([IDS[at]], at) - whole[at]).max() / np.abs(whole).max() < TOLERANCE
    runner.forward([1, 2, 3, 4, 5], 10)
    assert np.abs(runner.score(IDS[10:40], 10) - whole[10:40]).max() / np.abs(whole).max() < TOLERANCE


def test_a_device_that_is_not_there_is_named(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    if not reason_against("cuda") or library.cuda.missing():
        pytest.skip("needs nvcc and no CUDA device")
    facts, scheme = architectures.read(checkpoint_of("gpt_bigcode")), parse_scheme("q0f16")
    weights.convert(checkpoint_of("gpt_bigcode"), facts, scheme, tmp_path, Silent())
    library.build(facts, scheme, STARCODER, replace(parse_target("cuda"), archs=("sm_89",)), tmp_path / "library.so")
    with pytest.raises(FimbleError, match="cuda"):
        load(tmp_path / "library.so", tmp_path)
