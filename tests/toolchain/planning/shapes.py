"""Small models of each family, and what autograd really keeps of a forward pass through them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from train.run.loss import Losses
from train.samples.packing import Batch

# Models this small are faster in one thread, by far when the machine has other work.
torch.set_num_threads(1)

BATCH, LENGTH, RANK = 2, 128, 8
NEWER = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {"n_embd": 256, "n_head": 4, "n_positions": 256, "n_inner": 1024, "multi_query": True}
    | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "llama": {**NEWER, "intermediate_size": 704},
    "qwen2": {**NEWER, "intermediate_size": 704},
    "starcoder2": {**NEWER, "intermediate_size": 1024},
}


def config(family: str, layers: int) -> dict[str, Any]:
    depth = "n_layer" if family == "gpt_bigcode" else "num_hidden_layers"
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return {"model_type": family, "vocab_size": 512, depth: layers, **ends, **CONFIGS[family]}


def shape(family: str, layers: int = 2) -> Architecture:
    return architectures.from_config(config(family, layers))


def build(config: dict[str, Any], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The model of transformers for a config, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **rest), dtype=dtype, attn_implementation="sdpa"
        )


def with_adapter(model: Any, shape: Architecture, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    targets = [name for name in shape.lora_targets if name in present]
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets))


def kept_bytes(family: str, layers: int, method: str, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass, each storage once, parameters left out."""
    model = _ready(config(family, layers), method, dtype, checkpointing)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # alive, so that no other one gets its address
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(model, dtype)
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(config: dict[str, Any], method: str, dtype: torch.dtype, checkpointing: bool) -> int:
    """The most bytes that all tensors of a pass, forward and backward, take at once beside weights and gradients."""
    model = _ready(config, method, dtype, checkpointing)
    _loss(model, dtype).backward()  # so that gradients exist, as in all passes of a step but the first
    known = list(model.parameters())
    with Allocations([*known, *(weight.grad for weight in known if weight.grad is not None)]) as counted:
        _loss(model, dtype).backward()
    return counted.peak


def stored_bytes(weights: Iterable[Any]) -> int:
    """Bytes of weights in this process: of a sharded one its part, of one in NF4 also its scales and tables."""
    taken = 0
    for weight in weights:
        tensors = [weight.to_local() if hasattr(weight, "to_local") else weight]
        if state := getattr(weight, "quant_state", None):
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        taken += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return taken


class Allocations(TorchDispatchMode):
    """Counts the storages that operations return, for as long as they live, other than those of `known` tensors."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._live:
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage._cdata)
        return result

    def _free(self, address: int) -> None:
        self.now -= self._live.pop(address)


def quantized(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """The model as QLoRA opens it."""
    from train.bases import models, quantization

    with TemporaryDirectory() as folder:
        build(config).save_pretrained(folder)
        return models.open_model(Path(folder), dtype, torch.device("cpu"), quantization=quantization.nf4(dtype))


def _ready(config: dict[str, Any], method: str, dtype: torch.dtype, checkpointing: bool) -> Any:
    from train.bases.models import recompute_activations

    if method == "qlora":
        model = quantized(config, dtype)
    else:
        model = build(config, torch.float32 if method == "full" else dtype)
    if method != "full":
        model = with_adapter(model, architectures.from_config(config), RANK)
    if checkpointing:
        recompute_activations(model)
    return model.train()


def _loss(model: Any, dtype: torch.dtype) -> Tensor:
    """The mean loss of packed rows, as `train/run/loss.py` computes it."""
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    samples = torch.zeros_like(ids)
    samples[:, LENGTH // 2 :] = 1
    batch = Batch(ids, torch.arange(LENGTH).repeat(BATCH, 1), samples, ids, 0)
    return Losses(model, dtype)(batch, 1 / ids.numel())
