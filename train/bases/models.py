"""The model of a base, opened and made ready to be trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from toolchain.contracts import weight_files
from toolchain.contracts.errors import ArtifactError, reason
from train import distributed
from train.bases.token_rows import trained_alone
from train.devices import FLASH, SDPA, arithmetic
from train.distributed import World
from train.memory import lacking
from train.run.loss import Losses
from train.settings import TrainSettings

STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AGAIN = "Fetch the checkpoint again, or remove it and make it again."


def open_model(
    folder: Path, dtype: torch.dtype, device: torch.device, attention: str = SDPA, quantization: Any = None
) -> Any:
    """The causal language model of a checkpoint, with weights in `dtype`, or quantized as transformers is told.

    Raises ArtifactError for a checkpoint that is damaged, and the libraries' own errors where memory does not suffice.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention,
            output_loading_info=True,
            **({"quantization_config": quantization, "device_map": {"": device}} if quantization else {}),
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if lacking(error):
            raise  # nothing is wrong with the checkpoint
        raise ArtifactError(f"{folder} cannot be loaded ({reason(error)})", AGAIN) from None
    missing = sorted(report["missing_keys"])
    if missing:
        # Left alone, they would be filled with random numbers.
        raise ArtifactError(f"{folder} lacks the weight {missing[0]}", AGAIN)
    return model if quantization else model.to(device)


def losses_of(model: Any, settings: TrainSettings, window: int | None, world: World) -> Losses:
    """The model with its loss, spread over the processes where there are several."""
    from train.bases import quantization

    network = model.get_base_model() if settings.adapts else model
    dtype = arithmetic(settings.dtype, world.device)
    losses = Losses(model, dtype, window, flat=network.config._attn_implementation == FLASH)
    if world.size > 1:
        apart = quantization.quantized(model) if settings.method == "qlora" else ()
        distributed.shard(losses, network._no_split_modules, dtype, apart)
        if not settings.adapts:
            losses.float()
    return losses


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most weights in a checkpoint, by their headers: its configuration need not name one."""
    sizes: Counter[torch.dtype] = Counter()
    for weight in weight_files.read_headers(folder).values():
        if weight.dtype in STORED:
            sizes[STORED[weight.dtype]] += math.prod(weight.shape)
    return max(sizes, key=lambda dtype: sizes[dtype])


def with_adapter(
    model: Any, settings: TrainSettings, targets: Sequence[str], base_name: str, tokens: Sequence[int] = ()
) -> Any:
    """The model with a fresh LoRA on the layers called `targets` (Hu et al. 2021, arXiv:2106.09685).

    As the settings say, rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732), with the magnitudes of DoRA (Liu et al.
    2024, arXiv:2402.09353), or started by PiSSA, which changes the base's weights. Of the embeddings, and of an
    untied head, the rows of `tokens` are trained.
    """
    from peft import LoraConfig, get_peft_model

    matched = adapted_layers(model, targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        init_lora_weights="pissa" if settings.init == "pissa" else True,
        target_modules=[name for name in targets if matched[name]],
        trainable_token_indices=trained_alone(model, tokens) if tokens else None,
    )
    torch.manual_seed(settings.seed)
    adapted = get_peft_model(model, config)
    # PEFT notes the folder that the model was loaded from, which means nothing on another machine.
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def adapted_layers(model: Any, targets: Sequence[str]) -> Counter[str]:
    """How many linear layers of the model each target names."""
    names = (name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return Counter(name for name in names if name in targets)


def recompute_activations(model: Any) -> None:
    """Gradient checkpointing, which transformers 5 renamed. The newer kind needs no gradient at the embeddings."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
