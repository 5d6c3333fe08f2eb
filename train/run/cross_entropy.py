"""Cross entropy without the logits of all positions at once.

At 49,152 tokens of vocabulary and 8,192 positions, logits in float32 with their gradients would take 3 GB. Here a few
positions at a time go through the head, and their gradients are worked out at once from the softmax that is there
anyway, so nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from train.bases import token_rows

LOGITS_AT_ONCE = 1 << 26
"""A quarter of a GiB in float32."""


def token_losses(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """The losses in nats, `(P,)`, of predicting `targets (P,)` from `hidden (P, H)`."""
    apply: Any = head
    if rows := token_rows.of(head):
        apply = partial(linear, weight=token_rows.put(rows.layer.weight, rows.ids, rows.weights))
    parts = [
        cross_entropy(_exact(apply(hidden[part])), targets[part], reduction="none")
        for part in _parts(len(targets), _vocabulary(rows.layer if rows else head))
    ]
    return torch.cat(parts)


def scaled_loss(hidden: Tensor, head: nn.Module, targets: Tensor, scale: float) -> Tensor:
    """`scale` times the sum of the losses, with gradients for `hidden`, and the head's weight or some of its rows."""
    rows = token_rows.of(head)
    plain = rows.layer if rows else head
    if type(plain) is nn.Linear and plain.bias is None:
        trained = (rows.weights, rows.ids, plain.weight) if rows else (plain.weight, None, None)
        total: Tensor = _ScaledLoss.apply(hidden, targets, scale, *trained)
        return total
    return scale * cross_entropy(_exact(head(hidden)), targets, reduction="sum")  # a head with an adapter of its own


class _ScaledLoss(torch.autograd.Function):
    """With p the softmax over the vocabulary and y the target, one-hot: d loss / d logits = p - y.

    `weight` is the head's, `(V, H)`; or with `ids (n)` it is `(n, H)` and stands for these rows of the frozen `table`.
    """

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        targets: Tensor,
        scale: float,
        weight: Tensor,
        ids: Tensor | None,
        table: Tensor | None,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        total = torch.zeros((), dtype=_wide(hidden.dtype), device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=total.dtype) if weight.requires_grad else None
        matrix = weight.to(dtype) if ids is None or table is None else token_rows.put(table.to(dtype), ids, weight)
        with torch.autocast(device, enabled=False):
            for part in _parts(len(targets), len(matrix)):
                rows = hidden[part].to(dtype)
                target = targets[part, None]
                # The name changes with what the memory holds: log p, then p, then the gradient.
                slope = _exact(linear(rows, matrix)).log_softmax(dim=1)  # (p, V)
                total -= slope.gather(1, target).sum()
                slope.exp_().scatter_add_(1, target, torch.full_like(target, -1, dtype=slope.dtype)).mul_(scale)
                narrow = slope.to(dtype)
                d_hidden[part] = (narrow @ matrix).to(hidden.dtype)
                narrow = narrow if ids is None else narrow[:, ids]
                if d_weight is not None and d_weight.dtype == dtype:
                    d_weight.addmm_(narrow.T, rows)
                elif d_weight is not None:
                    d_weight += narrow.T @ rows
        context.save_for_backward(d_hidden, d_weight.to(weight.dtype) if d_weight is not None else None)
        return total * scale

    @staticmethod
    def backward(context: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = context.saved_tensors
        if bool(outer[0] != 1):
            gradients = [part if part is None else part * outer[0].to(part.dtype) for part in gradients]
        return gradients[0], None, None, gradients[1], None, None


def _parts(positions: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(begin, begin + size) for begin in range(0, positions, size))


def _vocabulary(head: Any) -> int:
    return int(head.out_features)


def _exact(logits: Tensor) -> Tensor:
    return logits.to(_wide(logits.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
