"""The loss of a model on packed batches, in training and on held-out files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.packing import IGNORED, Batch


@dataclass(frozen=True)
class Score:
    """How well held-out text is predicted: nats a token, control tokens included, and bits a byte of the text alone.

    Bits per byte compare models with different tokenizers.
    """

    loss: float
    bits_per_byte: float


def token_losses(model: Any, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The loss at each position in nats, `(B, T)` of float32; 0 where nothing is predicted."""
    with _arithmetic(batch.ids.device, dtype):
        logits = model(
            input_ids=batch.ids, attention_mask=batch.attention_mask(), position_ids=batch.positions, use_cache=False
        ).logits  # (B, T, V)
    losses = cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(batch.targets.shape)


def score(model: Any, batches: Sequence[Batch], control: frozenset[int], dtype: torch.dtype) -> Score:
    """The model's score on samples that are all fill-in-the-middle, so that every byte of text is predicted once."""
    nats = text_nats = 0.0
    with torch.inference_mode(), _evaluating(model):
        for batch in batches:
            losses = token_losses(model, batch, dtype).double()
            is_control = torch.isin(batch.targets, torch.tensor(sorted(control), device=batch.targets.device))
            nats += float(losses.sum())
            text_nats += float(losses[~is_control].sum())
    predicted, text_bytes = sum(batch.predicted for batch in batches), sum(batch.text_bytes for batch in batches)
    return Score(round(nats / predicted, 6), round(text_nats / math.log(2) / text_bytes, 6))


def _arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()
