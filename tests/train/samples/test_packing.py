"""Packing is invisible: losses and gradients are those of the samples one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from tests.compile.families import FAMILIES, VARIANTS, random_model
from train.run import cross_entropy
from train.run.loss import Losses
from train.samples.packing import OPEN_ROWS, Packer, Row, collate
from train.samples.sample import Sample

pytestmark = pytest.mark.train

# Models this small are faster in one thread, by far when the machine has other work.
torch.set_num_threads(1)


def random_samples(lengths: list[int]) -> list[Sample]:
    draw = torch.Generator().manual_seed(0)
    return [Sample(torch.randint(5, 500, (n,), generator=draw).tolist(), n, None) for n in lengths]


def family(name: str) -> tuple[Any, int | None]:
    """A model of the family in double precision, without dropout, and its window."""
    model = random_model(name).double()
    assert model.config._attn_implementation == "sdpa"
    return model, VARIANTS[name].get("sliding_window")


def loss_and_gradients(name: str, batches: list[list[Row]], flat: bool = False) -> tuple[float, dict[str, Any]]:
    model, window = family(name)
    if flat:
        model.set_attn_implementation(VARLEN)
    losses, total = Losses(model, torch.float32, window, flat), 0.0
    for rows in batches:
        loss = losses(collate(rows, padding=0), 1.0)
        loss.backward()
        total += float(loss.detach())
    return total, {name: weight.grad for name, weight in model.named_parameters()}


def by_sample(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """What flash attention computes for sequences of various lengths laid end to end, in plain PyTorch."""
    assert attention_mask is None
    assert query.shape[0] == 1
    edges = cu_seq_lens_q.tolist()
    assert edges == cu_seq_lens_k.tolist()
    assert max(b - a for a, b in pairwise(edges)) == max_length_q == max_length_k
    parts = []
    for begin, end in pairwise(edges):
        q, k, v = (tensor[:, :, begin:end] for tensor in (query, key, value))
        seen = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
        if sliding_window is not None:
            seen = seen.triu(1 - sliding_window)
        parts.append(scaled_dot_product_attention(q, k, v, seen, scale=scaling, enable_gqa=True))
    return torch.cat(parts, dim=2).transpose(1, 2), None


VARLEN = "one_sample_at_a_time"
AttentionInterface.register(VARLEN, by_sample)
AttentionMaskInterface.register(VARLEN, lambda *given, **named: None)


SPANS = {0: [[10, 20], [33, 60]], 1: [[0, 4]], 4: [[54, 55]], 5: [[1, 2], [58, 60]]}
"""What is predicted of some samples, as in dialogues."""


@pytest.mark.parametrize("spans", [{}, SPANS], ids=["all", "answers"])
@pytest.mark.parametrize("flat", [False, True], ids=["masked", "flat"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_loss_and_gradients_are_those_of_separate_samples(
    name: str, flat: bool, spans: dict[int, list[list[int]]]
) -> None:
    samples = random_samples([60, 31, 1, 20, 55, 60, 9])
    samples = [replace(sample, predicted=spans.get(number)) for number, sample in enumerate(samples)]
    packed = [[samples[:4], samples[4:]]]
    separate = [[[sample]] for sample in samples]
    loss, gradients = loss_and_gradients(name, packed, flat)
    expected, expected_gradients = loss_and_gradients(name, separate)
    assert loss == pytest.approx(expected, rel=1e-5)
    for weight, gradient in gradients.items():
        error = float((gradient - expected_gradients[weight]).abs().max())
        assert error <= 1e-5 * max(1.0, float(expected_gradients[weight].abs().max())), weight


@pytest.mark.parametrize("name", FAMILIES)
def test_the_proof_would_notice_attention_across_samples(name: str) -> None:
    samples = random_samples([40, 31, 20])
    joined = Sample([token for sample in samples for token in sample.ids], 91, None)
    model, window = family(name)
    naive, packed = collate([[joined]], padding=0), collate([samples], padding=0)
    losses = Losses(model.requires_grad_(False), torch.float32, window)
    predicting = packed.targets[0] != -100
    all_losses = losses(naive)[predicting[:-1]]  # only the joined sample's last token predicts nothing
    assert float((all_losses - losses(packed))[41:].abs().max()) > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_under_flash_attention_packed_losses_are_those_of_separate_samples(name: str) -> None:
    pytest.importorskip("flash_attn", reason="needs the flash extra")
    model = random_model(name).to("cuda", torch.bfloat16)
    model.set_attn_implementation("flash_attention_2")
    losses = Losses(model, torch.bfloat16, VARIANTS[name].get("sliding_window"), flat=True)
    samples = random_samples([60, 31, 1, 20, 55, 60, 9])
    with torch.no_grad():
        packed = losses(collate([samples[:4], samples[4:]], padding=0).to(torch.device("cuda")))
        apart = [losses(collate([[sample]], padding=0).to(torch.device("cuda"))) for sample in samples]
    assert float((packed - torch.cat(apart)).abs().max()) < 0.05


def test_only_what_a_span_holds_is_predicted() -> None:
    whole, answers = Sample([1, 2, 3, 4, 5], 1), Sample([6, 7, 8, 9], 1, None, [[0, 2], [3, 4]])
    assert collate([[whole, answers]], padding=0).targets.tolist() == [[2, 3, 4, 5, -100, 7, -100, 9, -100]]


def test_a_single_sample_a_row_needs_no_mask() -> None:
    batch = collate([[sample] for sample in random_samples([50, 20])], padding=0)
    assert batch.attention_mask() is None
    assert batch.predicted == 49 + 19
    assert batch.tokens == 70
    assert collate([random_samples([50, 20])], padding=0).attention_mask() is not None


@pytest.mark.parametrize("trained_head", [True, False])
def test_chunked_cross_entropy_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch, trained_head: bool) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", 7 * 50)
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False).double().requires_grad_(trained_head)
    hidden = torch.randn(40, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (40,))
    expected = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    assert torch.allclose(cross_entropy.token_losses(hidden, head, targets), expected)
    loss = 3 * cross_entropy.scaled_loss(hidden, head, targets, 0.25)
    assert float(loss.detach()) == pytest.approx(0.75 * float(expected.detach().sum()))
    wanted = [hidden, head.weight] if trained_head else [hidden]
    found = torch.autograd.grad(loss, wanted)
    for one, other in zip(found, torch.autograd.grad(0.75 * expected.sum(), wanted), strict=True):
        assert torch.allclose(one, other)


def test_a_head_with_an_adapter_of_its_own_is_trained_too() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["lm_head"])
    model = get_peft_model(random_model("llama"), config)
    Losses(model, torch.float32)(collate([random_samples([30])], padding=0), 1.0).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(gradients) == 2
    assert float(next(g for name, g in gradients.items() if "lora_B" in name).abs().max()) > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), max_size=120))
def test_every_sample_lands_in_exactly_one_row(lengths: list[int]) -> None:
    samples = [Sample([number] * n, n, None) for number, n in enumerate(lengths)]
    packer = Packer(64)
    rows = [row for sample in samples if (row := packer.add(sample))] + packer.flush()
    assert all(0 < sum(len(sample.ids) for sample in row) <= 64 for row in rows)
    assert sorted(sample.ids[0] for row in rows for sample in row) == list(range(len(samples)))
    if len(rows) > OPEN_ROWS:
        full = sum(lengths) / (64 * len(rows))
        assert full > 0.5
