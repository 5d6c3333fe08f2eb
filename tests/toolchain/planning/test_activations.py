"""The formulas for activations beside the tensors that autograd keeps, block by block.

Here on the processor, so in its arithmetic: on a GPU the formulas take layer norms to be in float32.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("bitsandbytes", reason="needs the qlora extra")

from tests.toolchain.planning import shapes
from toolchain.contracts import architectures
from toolchain.planning import activations, layers, memory
from toolchain.planning.activations import Pass
from train.settings import TrainSettings

ERROR = 0.01
PEAK_ERROR = 0.1
FAMILIES = ["gpt_bigcode", "llama", "starcoder2", pytest.param("qwen2", marks=pytest.mark.slow)]


def a_pass(family: str, full: bool, number: int) -> Pass:
    return Pass(
        model=shapes.shape(family),
        batch=shapes.BATCH,
        length=shapes.LENGTH,
        full=full,
        number=number,
        residual=4 if full else number,
        rank=shapes.RANK,
        on_gpu=False,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_block_keeps(family: str, method: str, dtype: torch.dtype) -> None:
    two, three = (shapes.kept_bytes(family, count, method, dtype, checkpointing=False) for count in (2, 3))
    run = a_pass(family, method == "full", dtype.itemsize)
    expected = activations.of_block(run)
    if run.full and run.mixed:  # autocast's copies of weights, which the plan counts on their own
        expected += run.number * layers.block_weights(run.model) // run.model.layers
    assert three - two == pytest.approx(expected, rel=ERROR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_block_keeps_with_checkpointing(family: str, method: str, dtype: torch.dtype) -> None:
    two, three = (shapes.kept_bytes(family, count, method, dtype, checkpointing=True) for count in (2, 3))
    assert three - two == activations.between_blocks(a_pass(family, method == "full", dtype.itemsize))


@pytest.mark.parametrize(
    ("vocabulary", "dtype", "checkpointing"),
    [
        (512, torch.float32, True),
        (512, torch.bfloat16, False),
        (512, torch.bfloat16, True),
        (2048, torch.bfloat16, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("family", ["gpt_bigcode", pytest.param("llama", marks=pytest.mark.slow)])
def test_the_peak_of_a_pass(family: str, method: str, vocabulary: int, dtype: torch.dtype, checkpointing: bool) -> None:
    config = shapes.config(family, 4) | {"vocab_size": vocabulary}
    model = architectures.from_config(config)
    settings = TrainSettings(
        method=method,
        batch_size=shapes.BATCH,
        sequence_length=shapes.LENGTH,
        lora_rank=shapes.RANK,
        gradient_checkpointing=checkpointing,
    )
    parts = memory.terms(model, settings, 1, on_gpu=False, number=dtype.itemsize)
    states = (
        "weights, float32",
        "weights, 16",
        "weights, 32",
        "weights, NF4",
        "adapter",
        "gradients,",
        "Adam",
        "context",
    )
    expected = sum(part.bytes for part in parts if not part.name.startswith(states))
    assert shapes.peak_bytes(config, method, dtype, checkpointing) == pytest.approx(expected, rel=PEAK_ERROR)


def test_as_many_logits_stand_in_memory_as_training_lets() -> None:
    from train.run import cross_entropy

    assert activations.LOGITS_AT_ONCE == cross_entropy.LOGITS_AT_ONCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_what_the_loss_takes(monkeypatch: pytest.MonkeyPatch, full: bool, dtype: torch.dtype) -> None:
    from train.run import cross_entropy

    model = shapes.shape("llama")
    for module in (activations, cross_entropy):  # so that hidden states weigh more than logits
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 8 * model.vocab_size)
    kept = torch.float32 if full else dtype
    head = torch.nn.Linear(model.hidden_size, model.vocab_size, bias=False, dtype=kept).requires_grad_(full)
    run = replace(a_pass("llama", full, dtype.itemsize), length=512)
    targets = torch.zeros(run.batch, run.length, dtype=torch.long)
    predicting = targets == 0
    states = torch.zeros(*targets.shape, model.hidden_size, dtype=kept, requires_grad=True)
    with (
        shapes.Allocations([head.weight, targets, predicting, states]) as counted,
        torch.autocast("cpu", dtype, enabled=run.mixed),
    ):
        cross_entropy.scaled_loss(states[predicting], head, targets[predicting], 1.0)
    copy = run.number * model.vocab_size * model.hidden_size if full and run.mixed else 0  # which the plan counts apart
    assert counted.peak == pytest.approx(activations.of_loss(run) + copy, rel=0.05)
