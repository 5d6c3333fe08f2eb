"""The compiled models beside transformers' own, on the same random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compile.schemes import parse_scheme
from tests.compile.conftest import CheckpointOf, RunnerOf
from tests.compile.families import FAMILIES, VARIANTS, random_model
from tests.compile.group_quantization import dequantized, quantized
from toolchain.contracts import architectures

pytestmark = pytest.mark.compile
IDS = [int(n) for n in np.random.default_rng(0).integers(0, 500, 150)]
SCHEMES = ["q0f32", "q4f16_1"]


def reference_logits(variant: str, name: str) -> np.ndarray:
    """Logits `[T, V]` of transformers' model, with weights as the scheme stores them."""
    import torch

    model, scheme = random_model(variant), parse_scheme(name)
    with torch.no_grad():
        for parameter in model.parameters():
            stored = parameter.numpy().astype(scheme.dtype)
            if scheme.quantized and stored.ndim == 2:
                stored = dequantized(*quantized(stored, scheme), stored.shape[1])
            parameter.copy_(torch.tensor(stored.astype(np.float32)))
        logits: np.ndarray = model(torch.tensor([IDS])).logits[0].numpy()
    return logits


def test_a_family_is_known_wherever_it_has_to_be() -> None:
    from compile.architectures import FAMILIES as COMPILED

    assert list(COMPILED) == FAMILIES
    assert [VARIANTS[family]["model_type"] for family in FAMILIES] == FAMILIES


# q0f32 is exact but for the order of sums. The others keep keys and values in float16: 2^-11 of each, over 2 layers.
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("scheme", "tolerance"), [("q0f32", 1e-4), ("q4f16_1", 2e-3)])
def test_logits_equal_transformers(variant: str, scheme: str, tolerance: float, runner_of: RunnerOf) -> None:
    wanted = reference_logits(variant, scheme)
    found = runner_of(variant, scheme).score(IDS, 0)
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < tolerance


@pytest.mark.parametrize(
    ("scheme", "tolerance"), [("q0f16", 2e-3), ("q8f16_1", 2e-3), ("q4f32_1", 1e-4), ("q8f32_1", 1e-4)]
)
def test_logits_of_other_schemes_equal_transformers(scheme: str, tolerance: float, runner_of: RunnerOf) -> None:
    wanted, found = reference_logits("gpt_bigcode", scheme), runner_of("gpt_bigcode", scheme).score(IDS, 0)
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < tolerance


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_decoding_token_by_token_equals_prefill(variant: str, scheme: str, runner_of: RunnerOf) -> None:
    runner = runner_of(variant, scheme)
    whole = runner.score(IDS, 0)
    runner.forward(IDS[:110], 0)
    for at in range(110, len(IDS)):
        step = runner.forward([IDS[at]], at)
        assert np.abs(step - whole[at]).max() / np.abs(whole).max() < 1e-4
        assert step.argmax() == whole[at].argmax()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rolling_back_and_chunks_equal_a_fresh_run(variant: str, scheme: str, runner_of: RunnerOf) -> None:
    runner = runner_of(variant, scheme)
    whole = runner.score(IDS, 0)
    runner.forward(IDS[:140], 0)
    runner.forward([1, 2, 3, 4, 5], 30)
    again = runner.score(IDS[30:60], 30)
    assert np.abs(again - whole[30:60]).max() / np.abs(whole).max() < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_count_the_parameters_of_transformers(variant: str, checkpoint_of: CheckpointOf) -> None:
    facts = architectures.read(checkpoint_of(variant))
    assert facts.parameters == random_model(variant).num_parameters()


def test_decicoder_is_a_llama_without_its_remote_code(checkpoint_of: CheckpointOf) -> None:
    config = json.loads((checkpoint_of("llama") / "config.json").read_text(encoding="utf-8"))
    remote = {"architectures": ["DeciCoderForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling.DeciCoder"}}
    assert architectures.from_config(config | remote) == architectures.from_config(config)


def test_refuses_what_does_not_fit(runner_of: RunnerOf) -> None:
    runner = runner_of("gpt_bigcode", "q0f32")
    for ids, position in ([], 0), ([1] * 161, 0), ([1], 160), ([1], -1), ([500], 0), ([-1], 0):
        with pytest.raises(ValueError, match=r"fit|vocabulary"):
            runner.forward(ids, position)
