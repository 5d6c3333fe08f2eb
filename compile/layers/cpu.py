"""Layers for processors: our vector kernels, float32 activations, weights packed for a number of vector lanes.

`compile/library.py` tells the loader, parameter by parameter, how the packing differs from MLC's layout on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from compile.kernels.cpu import embedding, float_matmul, quantized_matmul, rope, rows
from compile.layers import Finish
from compile.schemes import GROUP, Scheme
from toolchain.contracts.architectures.facts import Architecture


@dataclass(frozen=True)
class CpuLayers:
    """See `compile/layers/__init__.py` for the face. `lanes` are the float32 numbers that a kernel works on at once."""

    scheme: Scheme
    lanes: int

    def linear(self, inputs: int, outputs: int, finish: Finish = "") -> Linear:
        return Linear(self, inputs, outputs, finish)

    def head(self, inputs: int, outputs: int) -> Linear:
        return Linear(self, inputs, outputs, "")

    def table(self, entries: int, features: int) -> Table:
        return Table(self, entries, features)

    def layer_norm(self, features: int, epsilon: float) -> LayerNorm:
        return LayerNorm(self, features, epsilon)

    def rms_norm(self, features: int, epsilon: float) -> RmsNorm:
        return RmsNorm(self, features, epsilon)

    @property
    def dtype(self) -> str:
        return "float32"

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """`x + y`, both `[M, K]`."""
        return op.tensor_ir_op(rows.add(x.shape[1], self.lanes), f"add_{x.shape[1]}", [x, y], float_rows(*x.shape))

    def gated(self, x: Tensor) -> Tensor:
        features = x.shape[1] // 2
        out = float_rows(x.shape[0], features)
        return op.tensor_ir_op(rows.gated(features, self.lanes), f"gated_{features}", [x], out)

    def take_rows(self, x: Tensor, rows_wanted: Tensor) -> Tensor:
        out = float_rows(rows_wanted.shape[0], x.shape[1])
        return op.tensor_ir_op(rows.take_rows(x.shape[1]), "take_rows", [x, rows_wanted], out)

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
            blocks, groups = -(-outputs // lanes), inputs // GROUP
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

    def rows(self, ids: Tensor, added: Tensor | None = None) -> Tensor:
        scheme, out = self.layers.scheme, float_rows(ids.shape[0], self.inputs)
        if scheme.quantized:
            kernel = embedding.gather_quantized(self.inputs, self.layers.lanes, scheme)
            found = op.tensor_ir_op(kernel, f"q{scheme.bits}_embed", [ids, self.q_weight, self.q_scale], out)
        else:
            kernel = embedding.gather(self.inputs, scheme.dtype)
            found = op.tensor_ir_op(kernel, "embed", [ids, self.weight], out)
        return found if added is None else self.layers.add(found, added)

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
