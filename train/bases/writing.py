"""Weights that were trained: put together from all processes, and written in the usual layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from train import distributed
from train.adapters import peft_folder, pissa
from train.bases.base import copy_tokenizer
from train.distributed import World

SHARD_BYTES = 4 << 30


def adapter_weights(model: Any, world: World) -> dict[str, Tensor]:
    """The adapter's weights in main memory, under the names that PEFT gives them in a file; see `whole_weights`."""
    from peft import get_peft_model_state_dict

    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    state = get_peft_model_state_dict(model, state_dict=trained, save_embedding_layers=False)
    found = ((name, distributed.whole(weight, world)) for name, weight in state.items())
    return {name: weight for name, weight in found if weight is not None}


def whole_weights(model: Any, world: World) -> dict[str, Tensor]:
    """All weights in main memory, a tied one once; only in the process that writes them, so once on a machine."""
    found = ((name, distributed.whole(weight, world)) for name, weight in model.named_parameters())
    return {name: weight for name, weight in found if weight is not None}


def write_adapter(model: Any, weights: Mapping[str, Tensor], first: Mapping[str, Tensor] | None, out: Path) -> None:
    """PEFT's own layout. Its lists are sets in memory, so they are sorted: the same training writes the same bytes.

    `first` are the weights that the adapter began with, where it began with a part of the base (PiSSA).
    """
    from safetensors.torch import save_file

    model.peft_config["default"].save_pretrained(out)
    path = out / peft_folder.CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"target_modules": sorted(config["target_modules"]), "inference_mode": True}
    if first is not None:
        weights, config = pissa.relative_to_base(weights, first), pissa.config_for(config)
    save_file(dict(weights), out / peft_folder.WEIGHTS, metadata={"format": "pt"})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_checkpoint(model: Any, weights: Mapping[str, Tensor], tokenizer_folder: Path, out: Path) -> None:
    """Hugging Face's own layout: weights, the model's configuration, and the tokenizer files of a folder."""
    model.save_pretrained(out, state_dict=dict(weights), max_shard_size=SHARD_BYTES)
    copy_tokenizer(tokenizer_folder, out)
