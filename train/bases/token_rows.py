"""Rows of the embeddings that are trained alone: those of tokens that the base did not have.

PEFT keeps them beside the base's table, and once for a table and a head that are tied. Its layers put them into a copy
of the whole table at each use, whose gradient is as large; here they are computed with as the few rows that they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

ADAPTER = "default"


@dataclass(frozen=True)
class TokenRows:
    """`weights (n, H)`, which stand for the rows `ids (n)` of `layer`, an embedding or a head."""

    layer: Any
    weights: Tensor
    ids: Tensor


def of(layer: nn.Module) -> TokenRows | None:
    """The rows that PEFT trains for `layer`, if it does."""
    adapter: Any = getattr(layer, "token_adapter", None)
    if adapter is None:
        return None
    weights = adapter.trainable_tokens_delta[ADAPTER]
    return TokenRows(adapter.base_layer, weights, torch.tensor(adapter.token_indices[ADAPTER], device=weights.device))


def embedded(ids: Tensor, rows: TokenRows) -> Tensor:
    """The embeddings `(..., H)` of the token ids `(...)`."""
    found = embedding(ids, rows.layer.weight)
    chosen = ids[..., None] == rows.ids  # (..., n), at most one of them
    replaced = chosen.to(found.dtype) @ rows.weights.to(found.dtype)
    return torch.where(chosen.any(-1, keepdim=True), replaced, found)


def put(table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """A copy of `table (V, H)` with `weights (n, H)` as its rows `ids (n)`."""
    return table.index_copy(0, ids, weights.to(table.dtype))


def make_room(model: Any, ids: Sequence[int], size: int) -> None:
    """Give the embeddings of a model at least `size` rows, and the rows `ids` the mean of all below them.

    From the mean, a token is never much more likely than those that there were, so that the model goes on as it was
    (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    if size > model.config.vocab_size:
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for layer in _tables(model).values():
            layer.weight[list(ids)] = layer.weight[: min(ids)].float().mean(dim=0).to(layer.weight.dtype)


def trained_alone(model: Any, ids: Sequence[int]) -> dict[str, list[int]]:
    """PEFT's `trainable_token_indices` for the rows `ids` of a model's embeddings and of an untied head."""
    return {name.rpartition(".")[2]: list(ids) for name in _tables(model)}


def _tables(model: Any) -> dict[str, Any]:
    """The embeddings and the head by their names in the model; a tied head is not one of its own."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [embeddings] if head.weight is embeddings.weight else [embeddings, head]
    return {name: module for name, module in model.named_modules() if any(module is layer for layer in wanted)}
