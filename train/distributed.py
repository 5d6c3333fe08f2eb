"""Several processes that train one model: who they are, and how its weights are spread over them.

PyTorch's own fully sharded data parallelism (FSDP2): each process keeps a part of every weight, its gradient and its
optimizer state, and a layer's weights are whole only while it computes. torchrun starts the processes and tells each of
them its place in the environment. Without that there is one, and nothing here does anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def agreed(self, value: T) -> T:
        """The value that the process that leads has."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """The value of each process."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each value summed over the processes."""
        if self.size == 1:
            return values
        # Backends of GPUs need the tensor there, and not all GPUs have float64.
        kind = torch.float64 if self.device.type in ("cpu", "cuda") else torch.float32
        total = torch.tensor(values, dtype=kind, device=self.device)
        dist.all_reduce(total)
        return tuple(total.tolist())


def join(device: torch.device) -> World:
    """Meet the other processes that torchrun started, each with a device of the kind of `device` to itself."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), size, device)


def shard(module: nn.Module, layers: Iterable[str], dtype: torch.dtype, apart: Iterable[nn.Parameter] = ()) -> None:
    """Spread the parameters of `module` over all processes, gathered a layer at a time and computed with in `dtype`.

    `layers` are the class names of its transformer blocks. The parameters `apart` stay whole in every process.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    names, ignored = set(layers), set(apart)
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for part in list(module.modules()):
        if type(part).__name__ in names:
            fully_shard(part, mp_policy=policy, ignored_params=ignored)
    fully_shard(module, mp_policy=policy, ignored_params=ignored)


def whole(tensor: Tensor, world: World) -> Tensor | None:
    """A weight in main memory, put together from its parts, for the process that leads; every one has to ask for it.

    Where it is whole and in main memory already, it is the very weight and no copy.
    """
    full: Any = tensor.detach()
    if hasattr(full, "full_tensor"):
        full = full.full_tensor()
    return full.cpu().contiguous() if world.leads else None
