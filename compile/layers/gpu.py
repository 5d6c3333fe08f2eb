"""Layers for GPUs: weights in MLC's own layout, activations in the scheme's dtype, products that finish themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from compile.kernels.gpu import embedding, float_matmul, quantized_matmul, rope, rows
from compile.kernels.gpu.limits import Limits
from compile.layers import Finish
from compile.schemes import Scheme
from toolchain.contracts.architectures.facts import Architecture


@dataclass(frozen=True)
class GpuLayers:
    """See `compile/layers/__init__.py` for the face."""

    scheme: Scheme
    limits: Limits

    @property
    def dtype(self) -> str:
        return self.scheme.dtype

    def linear(self, inputs: int, outputs: int, finish: Finish = "") -> Linear:
        return Linear(self, inputs, outputs, finish, self.dtype)

    def head(self, inputs: int, outputs: int) -> Linear:
        return Linear(self, inputs, outputs, "", "float32")

    def table(self, entries: int, features: int) -> Table:
        return Table(self, entries, features)

    def layer_norm(self, features: int, epsilon: float) -> LayerNorm:
        return LayerNorm(self, features, epsilon)

    def rms_norm(self, features: int, epsilon: float) -> RmsNorm:
        return RmsNorm(self, features, epsilon)

    def gated(self, x: Tensor) -> Tensor:
        features = x.shape[1] // 2
        kernel = rows.gated(features, self.limits, self.dtype)
        return op.tensor_ir_op(kernel, f"gated_{features}", [x], self.out(x.shape[0], features))

    def take_rows(self, x: Tensor, rows_wanted: Tensor) -> Tensor:
        kernel = rows.take_rows(x.shape[1], self.limits, self.dtype)
        return op.tensor_ir_op(kernel, "take_rows", [x, rows_wanted], self.out(rows_wanted.shape[0], x.shape[1]))

    def turns(self, facts: Architecture, positions: Tensor) -> tuple[Tensor, Tensor]:
        return positions, Tensor.from_const(np.asarray(facts.rope, np.float32))

    def rotate(self, facts: Architecture, qkv: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        kernel = rope.rotate(facts.heads, facts.kv_heads, facts.head_size, self.limits, self.dtype)
        return op.tensor_ir_op(kernel, "rope_rotate", [qkv, *turns], self.out(*qkv.shape))

    def out(self, count: Any, features: int) -> Tensor:
        """A placeholder for activations `[count, features]`."""
        return Tensor.placeholder([count, features], self.dtype)

    def matmul(
        self, x: Tensor, weights: Weights, dtype: str, finish: Finish = "", bias: Any = None, residual: Any = None
    ) -> Tensor:
        """x · Wᵀ, `[M, inputs]` to `[M, outputs]` in `dtype`, and what follows it."""
        outputs, inputs, scheme = weights.outputs, weights.inputs, self.scheme
        kernels = quantized_matmul if scheme.quantized else float_matmul
        name = "gemv" if x.shape[0] == 1 else "gemm"
        kernel = getattr(kernels, name)(outputs, inputs, scheme, self.limits, finish, dtype)
        arguments = [*weights.matrix(), x, *(value for value in (bias, residual) if value is not None)]
        out = Tensor.placeholder([x.shape[0], outputs], dtype)
        return op.tensor_ir_op(kernel, f"{name}_{finish}_{outputs}_{inputs}", arguments, out)


class Weights(nn.Module):
    """The parameters of a matrix `[outputs, inputs]`."""

    def __init__(self, layers: GpuLayers, outputs: int, inputs: int) -> None:
        self.layers, self.outputs, self.inputs = layers, outputs, inputs
        scheme = layers.scheme
        if scheme.quantized:
            words, scales = scheme.stored_shapes((outputs, inputs))
            self.q_weight = nn.Parameter(words, "uint32")
            self.q_scale = nn.Parameter(scales, scheme.dtype)
        else:
            self.weight = nn.Parameter((outputs, inputs), scheme.dtype)

    def matrix(self) -> list[Tensor]:
        return [self.q_weight, self.q_scale] if self.layers.scheme.quantized else [self.weight]


class Linear(Weights):
    """x · Wᵀ and its finish."""

    def __init__(self, layers: GpuLayers, inputs: int, outputs: int, finish: Finish, dtype: str) -> None:
        super().__init__(layers, outputs, inputs)
        self.finish, self.out_dtype = finish, dtype
        if "bias" in finish:
            self.bias = nn.Parameter((outputs,), layers.scheme.dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        bias = self.bias if "bias" in self.finish else None
        return self.layers.matmul(x, self, self.out_dtype, self.finish, bias, residual)


class Table(Weights):
    """An embedding table `[entries, features]`, which can be the head too."""

    def __init__(self, layers: GpuLayers, entries: int, features: int) -> None:
        super().__init__(layers, entries, features)

    def rows(self, ids: Tensor, added: Tensor | None = None) -> Tensor:
        layers, more = self.layers, added is not None
        if layers.scheme.quantized:
            kernel = embedding.gather_quantized(self.inputs, layers.scheme, layers.limits, more)
        else:
            kernel = embedding.gather(self.inputs, layers.dtype, layers.limits, more)
        arguments = [ids, *self.matrix(), *([added] if more else [])]
        return op.tensor_ir_op(
            kernel, "embed_added" if more else "embed", arguments, layers.out(ids.shape[0], self.inputs)
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.layers.matmul(x, self, "float32")


class LayerNorm(nn.Module):
    def __init__(self, layers: GpuLayers, features: int, epsilon: float) -> None:
        self.layers, self.features, self.epsilon = layers, features, epsilon
        self.weight = nn.Parameter((features,), layers.dtype)
        self.bias = nn.Parameter((features,), layers.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kernel = rows.layer_norm(self.features, self.epsilon, self.layers.limits, self.layers.dtype)
        arguments = [x, self.weight, self.bias]
        return op.tensor_ir_op(kernel, f"layer_norm_{self.features}", arguments, self.layers.out(*x.shape))


class RmsNorm(nn.Module):
    def __init__(self, layers: GpuLayers, features: int, epsilon: float) -> None:
        self.layers, self.features, self.epsilon = layers, features, epsilon
        self.weight = nn.Parameter((features,), layers.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kernel = rows.rms_norm(self.features, self.epsilon, self.layers.limits, self.layers.dtype)
        return op.tensor_ir_op(kernel, f"rms_norm_{self.features}", [x, self.weight], self.layers.out(*x.shape))
