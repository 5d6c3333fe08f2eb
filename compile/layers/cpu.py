"""Layers for processors: our vector kernels, float32 activations, weights packed for a number of vector lanes.

`compile/library.py` tells the loader, parameter by parameter, how the packing differs from MLC's layout on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from compile.kernels.cpu import attention, embedding, float_matmul, quantized_matmul, rope, rows
from compile.layers import Finish
from compile.schemes import Scheme
from toolchain.contracts.architectures.facts import Architecture


@dataclass(frozen=True)
class CpuLayers:
    """See `compile/layers/__init__.py` for the face. `lanes` are the float32 numbers that a kernel works on at once."""

    scheme: Scheme
    lanes: int

    def linear(self, inputs: int, outputs: int, finish: Finish = "") -> Linear:
        return Linear(self, inputs, outputs, finish)

    def table(self, entries: int, features: int) -> Table:
        return Table(self, entries, features)

    def layer_norm(self, features: int, epsilon: float) -> LayerNorm:
        return LayerNorm(self, features, epsilon)

    def rms_norm(self, features: int, epsilon: float) -> RmsNorm:
        return RmsNorm(self, features, epsilon)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return op.tensor_ir_op(rows.add(x.shape[1], self.lanes), f"add_{x.shape[1]}", [x, y], float_rows(*x.shape))

    def gated(self, x: Tensor) -> Tensor:
        features = x.shape[1] // 2
        out = float_rows(x.shape[0], features)
        return op.tensor_ir_op(rows.gated(features, self.lanes), f"gated_{features}", [x], out)

    def turns(self, facts: Architecture, positions: Tensor) -> Tensor:
        frequencies = Tensor.from_const(np.asarray(facts.rope, np.float32))
        out = float_rows(positions.shape[0], facts.head_size)
        return op.tensor_ir_op(rope.angles(facts.head_size), "rope_angles", [positions, frequencies], out)

    def rotate(self, facts: Architecture, qkv: Tensor, turns: Tensor) -> Tensor:
        kernel = rope.rotate(facts.heads, facts.kv_heads, facts.head_size)
        return op.tensor_ir_op(kernel, "rope_rotate", [qkv, turns], float_rows(*qkv.shape))

    def matmul(self, x: Tensor, weights: Weights) -> Tensor:
        """x · Wᵀ, `[M, inputs]` to `[M, outputs]`."""
        count, lanes, scheme = x.shape[0], self.lanes, self.scheme
        outputs, inputs = weights.outputs, weights.inputs
        out, size = float_rows(count, outputs), f"{outputs}_{inputs}"
        if not scheme.quantized:
            kernel = float_matmul.matmul(outputs, inputs, lanes, scheme.dtype)
            return op.tensor_ir_op(kernel, f"matmul_{size}", [weights.weight, x], out)
        name, make = ("gemv", quantized_matmul.gemv) if count == 1 else ("gemm", quantized_matmul.gemm)
        kernel = make(outputs, inputs, lanes, scheme)
        return op.tensor_ir_op(kernel, f"q{scheme.bits}_{name}_{size}", [weights.q_weight, weights.q_scale, x], out)


def float_rows(count: Any, features: int) -> Tensor:
    """A placeholder for float32 activations `[count, features]`."""
    return Tensor.placeholder([count, features], "float32")


class Weights(nn.Module):
    """The parameters of a matrix `[outputs, inputs]`, packed as the kernels want them."""

    def __init__(self, layers: CpuLayers, outputs: int, inputs: int) -> None:
        self.layers, self.outputs, self.inputs = layers, outputs, inputs
        scheme, lanes = layers.scheme, layers.lanes
        if scheme.quantized:
            blocks, groups = -(-outputs // lanes), inputs // quantized_matmul.GROUP
            self.q_weight = nn.Parameter((blocks, groups, scheme.bits, lanes), "uint32")
            self.q_scale = nn.Parameter((blocks, groups, lanes), scheme.dtype)
        else:
            self.weight = nn.Parameter((outputs, inputs), scheme.dtype)


class Linear(Weights):
    """x · Wᵀ and its finish."""

    def __init__(self, layers: CpuLayers, inputs: int, outputs: int, finish: Finish) -> None:
        super().__init__(layers, outputs, inputs)
        self.finish = finish
        if "bias" in finish:
            self.bias = nn.Parameter((outputs,), layers.scheme.dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.layers.matmul(x, self)
        if self.finish == "residual":
            return self.layers.add(y, residual)
        if not self.finish:
            return y
        kernel = rows.finish(self.outputs, self.finish, self.layers.lanes, self.layers.scheme.dtype)
        arguments = [y, self.bias] if residual is None else [y, self.bias, residual]
        return op.tensor_ir_op(kernel, f"{self.finish}_{self.outputs}", arguments, float_rows(*y.shape))


class Table(Weights):
    """An embedding table `[entries, features]`, which can be the head too."""

    def __init__(self, layers: CpuLayers, entries: int, features: int) -> None:
        super().__init__(layers, entries, features)

    def rows(self, ids: Tensor) -> Tensor:
        scheme, out = self.layers.scheme, float_rows(ids.shape[0], self.inputs)
        if not scheme.quantized:
            return op.tensor_ir_op(embedding.gather(self.inputs, scheme.dtype), "embed", [ids, self.weight], out)
        kernel = embedding.gather_quantized(self.inputs, self.layers.lanes, scheme)
        return op.tensor_ir_op(kernel, f"q{scheme.bits}_embed", [ids, self.q_weight, self.q_scale], out)

    def logits(self, x: Tensor) -> Tensor:
        return self.layers.matmul(x, self)


class LayerNorm(nn.Module):
    def __init__(self, layers: CpuLayers, features: int, epsilon: float) -> None:
        self.layers, self.features, self.epsilon = layers, features, epsilon
        self.weight = nn.Parameter((features,), layers.scheme.dtype)
        self.bias = nn.Parameter((features,), layers.scheme.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kernel = rows.layer_norm(self.features, self.epsilon, self.layers.lanes, self.layers.scheme.dtype)
        return op.tensor_ir_op(kernel, f"layer_norm_{self.features}", [x, self.weight, self.bias], float_rows(*x.shape))


class RmsNorm(nn.Module):
    def __init__(self, layers: CpuLayers, features: int, epsilon: float) -> None:
        self.layers, self.features, self.epsilon = layers, features, epsilon
        self.weight = nn.Parameter((features,), layers.scheme.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kernel = rows.rms_norm(self.features, self.epsilon, self.layers.lanes, self.layers.scheme.dtype)
        return op.tensor_ir_op(kernel, f"rms_norm_{self.features}", [x, self.weight], float_rows(*x.shape))


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
        kernel = attention.attention(*shape, facts.window, one_row=qkv.shape[0] == 1)
        out = float_rows(qkv.shape[0], facts.query_size)
        return op.tensor_ir_op(kernel, "causal_attention", [qkv, self.keys, self.values, where], out)


def cache_shapes(layers: CpuLayers, facts: Architecture, blocks: Any) -> tuple[list[Any], list[Any]]:
    """The shapes of the keys and of the values of all layers, for `blocks` blocks of L tokens."""
    heads, size, lanes = facts.kv_heads, facts.head_size, layers.lanes
    return [facts.layers, heads, blocks, size, lanes], [facts.layers, heads, blocks, lanes, size]


def functions(model: Any, layers: CpuLayers, facts: Architecture) -> nn.spec.ModuleSpec:
    """`prefill`, `decode` and `score` of one sequence: ids `[M]`, the position of the first, and the cache.

    `prefill` gives the logits `[1, V]` after the last of M tokens, `decode` those after its one, `score` those after
    each, `[M, V]`, for evaluation and for checking a draft.
    """

    def run(ids: Tensor, position: Any, keys: Tensor, values: Tensor, every_row: bool) -> Tensor:
        x = model.hidden(ids, ExplicitCache(layers, facts, ids.shape[0], position, keys, values))
        return model.logits(x if every_row else last_row(x))

    def prefill(ids: Tensor, position: Any, keys: Tensor, values: Tensor) -> Tensor:
        return run(ids, position, keys, values, every_row=False)

    def decode(ids: Tensor, position: Any, keys: Tensor, values: Tensor) -> Tensor:
        return run(ids, position, keys, values, every_row=True)

    keys, values = cache_shapes(layers, facts, "blocks")
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


def last_row(x: Tensor) -> Tensor:
    """The last of the rows `[M, features]`, as `[1, features]`."""
    return op.tensor_ir_op(rows.last_row(x.shape[1]), "take_last_row", [x], float_rows(1, x.shape[1]))
