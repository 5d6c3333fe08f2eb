"""The layers that model families are built of: the same face for every kind of device.

A family asks a `Layers` for its parts and never sees a kernel, so one definition serves all targets. Activations are
rows `[M, features]`, one a token; a part is an `nn.Module` whose parameters have MLC's names.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from toolchain.contracts.architectures.facts import Architecture

Finish = Literal["", "bias", "bias_gelu", "bias_residual", "residual"]


class Cache(Protocol):
    """The keys and values of one sequence or several, while a model's functions are traced."""

    @property
    def positions(self) -> Tensor:
        """The position of each row, `[M]` int32."""
        ...

    def attend(self, qkv: Tensor, layer: int) -> Tensor:
        """Append the keys and values in `qkv [M, (H + 2 KV) D]`, attend, and give `[M, H D]`."""
        ...


class Table(Protocol):
    """An embedding table; where the head is tied to it, it is both."""

    def rows(self, ids: Tensor, added: Tensor | None = None) -> Tensor:
        """The rows `ids [M]`, as `[M, features]`, `added` to them if given."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """`x [M, features]` times the table, transposed: `[M, entries]` float32."""
        ...


class Layers(Protocol):
    """What a device offers. `finish` is what follows a product: a bias, then GELU in its tanh form or a residual."""

    @property
    def dtype(self) -> str:
        """That of activations."""
        ...

    def linear(self, inputs: int, outputs: int, finish: Finish = "") -> Any:
        """A module called with `x [M, inputs]`, and with the residual `[M, outputs]` if it finishes with one."""
        ...

    def head(self, inputs: int, outputs: int) -> Any:
        """A linear module that gives logits, in float32 whatever the activations' dtype."""
        ...

    def table(self, entries: int, features: int) -> Table: ...

    def layer_norm(self, features: int, epsilon: float) -> Any: ...

    def rms_norm(self, features: int, epsilon: float) -> Any: ...

    def gated(self, x: Tensor) -> Tensor:
        """silu(gate) · up of `[M, 2K]`, as `[M, K]`."""
        ...

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """The rows `rows [B]` int32 of `x [M, K]`, as `[B, K]`."""
        ...

    def turns(self, facts: Architecture, positions: Tensor) -> Any:
        """What `rotate` needs at `positions`, made once for all layers."""
        ...

    def rotate(self, facts: Architecture, qkv: Tensor, turns: Any) -> Tensor:
        """`qkv` with queries and keys at their rotary positions."""
        ...


class CausalModel(nn.Module):
    """What a family's model gives: `hidden(ids [M], cache)`, rows after the last block, and `logits(rows)`."""

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError
