"""The optimizer: AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), PyTorch's or bitsandbytes'.

bitsandbytes has two that take less of a GPU's memory: one whose moments are float32 and may be paged out to main memory
(Dettmers et al. 2023, arXiv:2305.14314), and one that keeps them in 8 bits (Dettmers et al. 2021, arXiv:2110.02861;
those of matrices with less than 4,096 numbers stay in float32).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.settings import TrainSettings

BETAS = (0.9, 0.95)


def make(weights: Mapping[str, Tensor], settings: TrainSettings) -> Any:
    """The optimizer of `weights`, with decay on matrices only, and a learning rate that is set before every step."""
    matrices = [weight for weight in weights.values() if weight.ndim > 1]
    others = [weight for weight in weights.values() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=BETAS, fused=True)
    from bitsandbytes import optim

    on_cuda = all(weight.device.type == "cuda" for weight in weights.values())
    paged = optim.PagedAdamW32bit if on_cuda else optim.AdamW32bit
    kind = paged if settings.optimizer == "paged_adamw_32bit" else optim.AdamW8bit
    return kind([group for group in groups if group["params"]], betas=BETAS)


def states(optimizer: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the optimizer knows of each weight, by name."""
    return {
        f"{name}/{part}": value
        for name, weight in weights.items()
        for part, value in optimizer.state[weight].items()
        if isinstance(value, Tensor)
    }


def prepare(optimizer: Any, step: int) -> None:
    """Give an optimizer that has made no step the states of one that has made `step`, for their values to be loaded."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, weight in enumerate(group["params"]):
            if isinstance(optimizer, torch.optim.AdamW):
                optimizer.state[weight] = {
                    "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
            else:
                optimizer.init_state(group, weight, group_index, index)
                optimizer.state[weight]["step"] = step
