"""The layers that models are built of, in `tvm.relax.frontend.nn`, each calling our kernels.

A layer holds its parameters as the kernels want them; `compile/library.py` tells the loader, parameter by parameter,
how that differs from MLC's layout on disk. Activations are float32, `[M, features]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from compile.kernels import attention, embedding, float_matmul, q4_matmul, rows
from compile.schemes import Scheme


@dataclass(frozen=True)
class Style:
    """How a model is built: the scheme of its weights, and the vector lanes of the target."""

    scheme: Scheme
    lanes: int


def float_rows(count: Any, features: int) -> Tensor:
    """A placeholder for float32 activations `[count, features]`."""
    return Tensor.placeholder([count, features], "float32")


class Linear(nn.Module):
    """x · Wᵀ without bias, W `[outputs, inputs]`."""

    def __init__(self, style: Style, inputs: int, outputs: int) -> None:
        self.style, self.inputs, self.outputs = style, inputs, outputs
        if style.scheme.quantized:
            blocks, groups = -(-outputs // style.lanes), inputs // q4_matmul.GROUP
            self.q_weight = nn.Parameter((blocks, groups, 4, style.lanes), "uint32")
            self.q_scale = nn.Parameter((blocks, groups, style.lanes), "float16")
        else:
            self.weight = nn.Parameter((outputs, inputs), style.scheme.dtype)

    def forward(self, x: Tensor) -> Tensor:
        count, lanes = x.shape[0], self.style.lanes
        out = float_rows(count, self.outputs)
        size = f"{self.outputs}_{self.inputs}"
        if not self.style.scheme.quantized:
            kernel = float_matmul.matmul(self.outputs, self.inputs, lanes, self.style.scheme.dtype)
            return op.tensor_ir_op(kernel, f"matmul_{size}", [self.weight, x], out)
        if count == 1:
            kernel = q4_matmul.gemv(self.outputs, self.inputs, lanes)
            return op.tensor_ir_op(kernel, f"q4_gemv_{size}", [self.q_weight, self.q_scale, x], out)
        kernel = q4_matmul.gemm(self.outputs, self.inputs, lanes)
        return op.tensor_ir_op(kernel, f"q4_gemm_{size}", [self.q_weight, self.q_scale, x], out)


class FinishedLinear(Linear):
    """A linear layer with bias, and with GELU or a residual added if so asked."""

    def __init__(self, style: Style, inputs: int, outputs: int, finish: rows.Finish) -> None:
        super().__init__(style, inputs, outputs)
        self.bias = nn.Parameter((outputs,), style.scheme.dtype)
        self.finish = finish

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        kernel = rows.finish(self.outputs, self.finish, self.style.lanes, self.style.scheme.dtype)
        arguments = [y, self.bias] if residual is None else [y, self.bias, residual]
        return op.tensor_ir_op(kernel, f"{self.finish}_{self.outputs}", arguments, float_rows(x.shape[0], self.outputs))


class LayerNorm(nn.Module):
    def __init__(self, style: Style, features: int, epsilon: float) -> None:
        self.style, self.features, self.epsilon = style, features, epsilon
        self.weight = nn.Parameter((features,), style.scheme.dtype)
        self.bias = nn.Parameter((features,), style.scheme.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kernel = rows.layer_norm(self.features, self.epsilon, self.style.lanes, self.style.scheme.dtype)
        out = float_rows(x.shape[0], self.features)
        return op.tensor_ir_op(kernel, f"layer_norm_{self.features}", [x, self.weight, self.bias], out)


class Table(nn.Module):
    """The parameters of an embedding table `[entries, features]`, in MLC's own layout."""

    def __init__(self, style: Style, entries: int, features: int) -> None:
        if style.scheme.quantized:
            self.q_weight = nn.Parameter((entries, features // 8), "uint32")
            self.q_scale = nn.Parameter((entries, features // q4_matmul.GROUP), "float16")
        else:
            self.weight = nn.Parameter((entries, features), style.scheme.dtype)


def embed(style: Style, features: int, ids: Tensor, tokens: Table, places: Table, position: Any) -> Tensor:
    """The token's row plus the row of its position."""
    out, at = float_rows(ids.shape[0], features), relax.ShapeExpr([position])
    if style.scheme.quantized:
        tables = [tokens.q_weight, tokens.q_scale, places.q_weight, places.q_scale]
        return op.tensor_ir_op(embedding.embed_q4(features), "q4_embed", [ids, *tables, at], out)
    kernel = embedding.embed(features, style.scheme.dtype)
    return op.tensor_ir_op(kernel, "float_embed", [ids, tokens.weight, places.weight, at], out)


@dataclass(frozen=True)
class CachedAttention:
    """Attention of one shape over the KV cache of `compile/kernels/attention.py`."""

    style: Style
    heads: int
    kv_heads: int
    head_size: int

    def __call__(
        self, qkv: Tensor, keys: Tensor, values: Tensor, layer: int, position: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append the keys and values in `qkv`, attend, and give the result `[M, H D]` and the updated cache."""
        shape = (self.heads, self.kv_heads, self.head_size, self.style.lanes, self.style.scheme.dtype)
        where = relax.ShapeExpr([layer, position])
        keys, values = op.tensor_ir_inplace_op(
            attention.append(*shape),
            "kv_append",
            [qkv, keys, values, where],
            [1, 2],
            [Tensor.placeholder(keys.shape, keys.dtype), Tensor.placeholder(values.shape, values.dtype)],
        )
        kernel = attention.attention(*shape, one_row=qkv.shape[0] == 1)
        out = float_rows(qkv.shape[0], self.heads * self.head_size)
        return op.tensor_ir_op(kernel, "causal_attention", [qkv, keys, values, where], out), keys, values

    def cache_shapes(self, layers: int, blocks: Any) -> tuple[list[Any], list[Any]]:
        """The shapes of the keys and of the values of all layers, for `blocks` blocks of L tokens."""
        lanes, size = self.style.lanes, self.head_size
        return [layers, self.kv_heads, blocks, size, lanes], [layers, self.kv_heads, blocks, lanes, size]


def last_row(x: Tensor) -> Tensor:
    """The last of the rows `[M, features]`, as `[1, features]`."""
    if x.shape[0] == 1:
        return x
    return op.tensor_ir_op(rows.last_row(x.shape[1]), "take_last_row", [x], float_rows(1, x.shape[1]))
