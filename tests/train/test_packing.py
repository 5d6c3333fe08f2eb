"""Packing is invisible: losses and gradients are those of the samples one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.tiny import load
from train.fim import Sample
from train.loss import token_losses
from train.packing import OPEN_ROWS, Packer, Row, collate

pytestmark = pytest.mark.train


def random_samples(lengths: list[int]) -> list[Sample]:
    draw = torch.Generator().manual_seed(0)
    return [Sample(torch.randint(5, 500, (n,), generator=draw).tolist(), n, None) for n in lengths]


def loss_and_gradients(base: Path, batches: list[list[Row]]) -> tuple[float, dict[str, torch.Tensor]]:
    model = load(base).double()
    total = 0.0
    for rows in batches:
        loss = token_losses(model, collate(rows, padding=0), torch.float32).double().sum()
        loss.backward()
        total += float(loss.detach())
    return total, {name: weight.grad for name, weight in model.named_parameters()}


def test_packed_loss_and_gradients_are_those_of_separate_samples(base_folder: Path) -> None:
    samples = random_samples([40, 31, 1, 20, 17, 60, 9])
    packed = [[samples[:4], samples[4:]]]
    separate = [[[sample]] for sample in samples]
    loss, gradients = loss_and_gradients(base_folder, packed)
    expected, expected_gradients = loss_and_gradients(base_folder, separate)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        error = float((gradient - expected_gradients[name]).abs().max())
        assert error <= 1e-5 * max(1.0, float(expected_gradients[name].abs().max())), name


def test_the_proof_would_notice_attention_across_samples(base_folder: Path) -> None:
    samples = random_samples([40, 31, 20])
    joined = Sample([token for sample in samples for token in sample.ids], 91, None)
    naive = collate([[joined]], padding=0)
    packed = collate([samples], padding=0)
    model = load(base_folder).requires_grad_(False)
    same = packed.targets[0] != -100
    difference = token_losses(model, naive, torch.float32) - token_losses(model, packed, torch.float32)
    assert float(difference[0, 41:][same[41:]].abs().max()) > 1e-3


def test_a_single_sample_a_row_needs_no_mask(base_folder: Path) -> None:
    batch = collate([[sample] for sample in random_samples([50, 20])], padding=0)
    assert batch.attention_mask() is None
    assert batch.predicted == 49 + 19
    assert batch.tokens == 70
    assert collate([random_samples([50, 20])], padding=0).attention_mask() is not None


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
