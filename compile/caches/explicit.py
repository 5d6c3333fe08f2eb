"""One sequence's keys and values as two tensors that the caller keeps: the fast way on processors.

Nothing is ever moved: rolling back is calling with a lower position.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from compile.kernels.cpu import attention, rope, rows
from compile.layers import CausalModel
from compile.layers.cpu import CpuLayers, float_rows
from toolchain.contracts.architectures.facts import Architecture


class ExplicitCache:
    """One sequence's keys and values as two tensors, laid out as `compile/kernels/cpu/attention.py` says."""

    def __init__(
        self, layers: CpuLayers, facts: Architecture, count: Any, position: Any, keys: Tensor, values: Tensor
    ) -> None:
        """A call with `count` tokens, the first of them at `position`."""
        self.layers, self.facts, self.position, self.keys, self.values = layers, facts, position, keys, values
        out = Tensor.placeholder([count], "int32")
        # A kernel takes its shape arguments before its outputs.
        self.positions = op.tensor_ir_op(rope.positions(), "token_positions", [relax.ShapeExpr([position])], out)

    def attend(self, qkv: Tensor, layer: int) -> Tensor:
        facts, layers = self.facts, self.layers
        shape = (facts.heads, facts.kv_heads, facts.head_size, layers.lanes, layers.scheme.dtype)
        where = relax.ShapeExpr([layer, self.position])
        self.keys, self.values = op.tensor_ir_inplace_op(
            attention.append(*shape),
            "kv_append",
            [qkv, self.keys, self.values, where],
            [1, 2],
            [Tensor.placeholder(cache.shape, cache.dtype) for cache in (self.keys, self.values)],
        )
        kernel = attention.attention(*shape, facts.window, one_row=bool(qkv.shape[0] == 1))
        out = float_rows(qkv.shape[0], facts.query_size)
        return op.tensor_ir_op(kernel, "causal_attention", [qkv, self.keys, self.values, where], out)


def _shapes(layers: CpuLayers, facts: Architecture, blocks: Any) -> tuple[list[Any], list[Any]]:
    """The shapes of the keys and of the values of all layers, for `blocks` blocks of L tokens."""
    heads, size, lanes = facts.kv_heads, facts.head_size, layers.lanes
    return [facts.layers, heads, blocks, size, lanes], [facts.layers, heads, blocks, lanes, size]


def describe(layers: CpuLayers, facts: Architecture) -> dict[str, Any]:
    """What a runner must know to make the cache: "blocks" stands for the context divided by `block`, rounded up."""
    keys, values = _shapes(layers, facts, "blocks")
    return {"kind": "explicit", "block": layers.lanes, "dtype": layers.scheme.dtype, "keys": keys, "values": values}


def functions(model: CausalModel, layers: CpuLayers, facts: Architecture) -> nn.spec.ModuleSpec:
    """`prefill`, `decode` and `score` of one sequence: ids `[M]`, the position of the first, and the cache.

    `prefill` gives the logits `[1, V]` after the last of M tokens, `decode` those after its one, `score` those after
    each, `[M, V]`, for evaluation and for checking a draft.
    """

    def run(ids: Tensor, position: Any, keys: Tensor, values: Tensor, every_row: bool) -> Tensor:
        cache = ExplicitCache(layers, facts, ids.shape[0], position, keys, values)
        x = model.hidden(ids, cache)
        return model.logits(x if every_row else _last_row(x))

    def prefill(ids: Tensor, position: Any, keys: Tensor, values: Tensor) -> Tensor:
        return run(ids, position, keys, values, every_row=False)

    def decode(ids: Tensor, position: Any, keys: Tensor, values: Tensor) -> Tensor:
        return run(ids, position, keys, values, every_row=True)

    keys, values = _shapes(layers, facts, "blocks")
    dtype, names = layers.scheme.dtype, ["ids", "position", "keys", "values"]
    counts = {"prefill": (prefill, "count"), "decode": (decode, 1), "score": (decode, "count")}
    specs = [
        nn.spec.MethodSpec(
            method,
            names,
            [
                nn.spec.Tensor([count], "int32"),
                nn.spec.Int(),
                nn.spec.Tensor(keys, dtype),
                nn.spec.Tensor(values, dtype),
            ],
            param_mode="packed",
            effect_mode="none",
        )
        for method, count in counts.values()
    ]
    return nn.spec.ModuleSpec(model, list(counts), specs)


def _last_row(x: Tensor) -> Tensor:
    """The last of the rows `[M, features]`, as `[1, features]`."""
    return op.tensor_ir_op(rows.last_row(x.shape[1]), "take_last_row", [x], float_rows(1, x.shape[1]))
