"""Opening a base's model for training, giving it an adapter, and writing what was trained in the usual layouts."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolchain.contracts import weight_files
from toolchain.contracts.errors import ArtifactError, SettingsError
from toolchain.contracts.progress import Progress
from train import distributed
from train.adapters import peft_folder, pissa
from train.bases import TOKENIZER_FILES
from train.distributed import World
from train.loss import Losses
from train.memory import lacking
from train.running import Device
from train.settings import Dtype, TrainSettings
from train.token_rows import trained_alone

SHARD_BYTES = 4 << 30
SDPA, FLASH = "sdpa", "flash_attention_2"
STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AGAIN = "Fetch the checkpoint again, or remove it and make it again."


def best_device() -> torch.device:
    return device("auto")


def device(wanted: Device) -> torch.device:
    """The device to train on. Raises SettingsError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, is_there in there.items() if is_there]
    if wanted != "auto" and wanted not in found:
        raise SettingsError(f"--device {wanted}: PyTorch finds none here", f"It finds: {', '.join(found)}.")
    return torch.device(found[0] if wanted == "auto" else wanted)


def arithmetic(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in. A processor without instructions for bfloat16 is many times slower with it."""
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
    return torch.bfloat16 if _processor_has_bfloat16() else torch.float32


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
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ArtifactError(f"{folder} cannot be loaded ({reason})", AGAIN) from None
    missing = sorted(report["missing_keys"])
    if missing:
        # Left alone, they would be filled with random numbers.
        raise ArtifactError(f"{folder} lacks the weight {missing[0]}", AGAIN)
    return model if quantization else model.to(device)


def attention_for(device: torch.device, dtype: torch.dtype, progress: Progress) -> str:
    """The attention to train with, which is told with its reason: flash attention 2 where it can be had, else SDPA."""
    if device.type != "cuda":
        chosen, why = SDPA, f"flash attention 2 needs a CUDA device, and this is {device.type}"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        chosen, why = SDPA, f"flash attention 2 does not support {torch.cuda.get_device_name(device)}"
    elif dtype not in (torch.float16, torch.bfloat16):
        chosen, why = SDPA, "flash attention 2 computes in 16 bits only"
    elif importlib.util.find_spec("flash_attn") is None:
        chosen, why = SDPA, "flash attention 2 is not installed (the extra flash)"
    else:
        chosen, why = FLASH, "it is installed and the device supports it"
    progress.say(f"attention: {chosen}, because {why}")
    return chosen


def losses_of(model: Any, settings: TrainSettings, window: int | None, world: World) -> Losses:
    """The model with its loss, spread over the processes where there are several."""
    from train import quantization

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


def copy_tokenizer(source: Path, out: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _processor_has_bfloat16() -> bool:
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capability.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
