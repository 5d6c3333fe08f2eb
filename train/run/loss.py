"""The loss of a model on packed batches, in training and on held-out files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.bases import token_rows
from train.distributed import World
from train.run.cross_entropy import scaled_loss, token_losses
from train.samples.packing import IGNORED, Batch


@dataclass(frozen=True)
class Score:
    """How well held-out text is predicted: nats a token, control tokens included, and bits a byte of that text alone.

    Bits per byte compare models with different tokenizers.
    """

    loss: float
    bits_per_byte: float


class Losses(nn.Module):
    """A causal language model, with or without an adapter, from batches to losses.

    It is a module so that sharding can treat the model and its head as one. `window` is how many tokens back attention
    sees (None: all). With `flat`, for flash attention, rows are laid end to end without padding, and attention is told
    where each sample begins; otherwise it gets a mask.
    """

    def __init__(self, model: Any, dtype: torch.dtype, window: int | None = None, flat: bool = False) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.window = window
        self.flat = flat

    def forward(self, batch: Batch, scale: float | None = None) -> Tensor:
        """The losses in nats where something is predicted, `(P,)`, without gradients; or `scale` times their sum."""
        network = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        head = network.get_output_embeddings()
        with self._arithmetic(batch.ids.device):
            inputs = batch.flat_inputs() if self.flat else batch.inputs(self.window)
            if rows := token_rows.of(network.get_input_embeddings()):
                inputs["inputs_embeds"] = token_rows.embedded(inputs.pop("input_ids"), rows)
            hidden = network.base_model(**inputs, use_cache=False).last_hidden_state  # (B, T, H), or (1, N, H) if flat
            targets = batch.targets[batch.samples >= 0][None] if self.flat else batch.targets
            predicting = targets != IGNORED
            hidden, targets = hidden[predicting], targets[predicting]
            if scale is None:
                return token_losses(hidden, head, targets)
            return scaled_loss(hidden, head, targets, scale)

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(device.type, self.dtype)


def score(losses: Losses, batches: Sequence[Batch], control: frozenset[int], world: World) -> Score:
    """The model's score on samples in which every byte of the text that counts is predicted once.

    Every process takes its share of the batches. A sharded model runs in all of them at once, so where there is no
    batch left for some, they run one that does not count.
    """
    nats = text_nats = 0.0
    with torch.no_grad(), _evaluating(losses):
        for begin in range(0, len(batches), world.size):
            counts = begin + world.rank < len(batches)
            batch = batches[begin + world.rank if counts else 0]
            found = losses(batch).float().cpu().double()
            if counts:
                targets = batch.targets[batch.targets != IGNORED].cpu()
                is_control = torch.isin(targets, torch.tensor(sorted(control)))
                nats += float(found.sum())
                text_nats += float(found[~is_control].sum())
    nats, text_nats = world.sums(nats, text_nats)
    predicted, text_bytes = sum(batch.predicted for batch in batches), sum(batch.text_bytes for batch in batches)
    return Score(round(nats / predicted, 6), round(text_nats / math.log(2) / text_bytes, 6))


@contextmanager
def _evaluating(losses: Losses) -> Iterator[None]:
    losses.eval()
    try:
        yield
    finally:
        losses.train()
