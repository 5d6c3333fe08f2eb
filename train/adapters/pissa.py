"""PiSSA: LoRA that starts from the principal singular vectors of each matrix (Meng et al. 2024, arXiv:2404.02948).

Training takes them out of the base: W = R + s·B₀·A₀, and then changes B and A over R. What is written must be an
adapter of W itself, or neither merging nor mixing with other adapters would hold:

    R + s·B·A  =  W + s·(B·A - B₀·A₀)  =  W + s·[B, -B₀]·[A; A₀]

So the written adapter has twice the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.adapters.peft_folder import DOWN, UP


def relative_to_base(weights: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain LoRA with the same effect on the original base; `first` are the weights before training."""
    made = {}
    for name, weight in weights.items():
        if name.endswith(DOWN):
            made[name] = torch.cat([weight, first[name]], dim=0)
        elif name.endswith(UP):
            made[name] = torch.cat([weight, -first[name]], dim=1)
        else:
            made[name] = weight  # no part of a LoRA
    return made


def config_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in PEFT's layout for the doubled rank, with the scale as it was."""
    grown = math.sqrt(2) if config["use_rslora"] else 2
    return {
        **config,
        "r": 2 * config["r"],
        "lora_alpha": config["lora_alpha"] * grown,
        "init_lora_weights": True,
    }
