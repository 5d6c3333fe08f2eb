"""The base of QLoRA: its linear layers in NF4, four bits a weight, while the adapter is trained in full precision.

Double quantization also keeps the scales of the blocks in 8 bits (Dettmers et al. 2023, arXiv:2305.14314). Embeddings,
norms, biases and the head stay in the arithmetic's dtype. What is quantized here is never written: an adapter merges
into the base's own weights.
"""

from __future__ import annotations

from typing import Any

import torch

from toolchain.contracts import extras


def nf4(dtype: torch.dtype) -> Any:
    """How transformers is to load a base for QLoRA that computes in `dtype`.

    Raises MissingExtra without bitsandbytes.
    """
    extras.need("bitsandbytes", "accelerate")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # Sharding over several devices gathers weights of one dtype at a time.
        bnb_4bit_quant_storage=dtype,
    )


def keep_narrow(model: Any, dtype: torch.dtype) -> None:
    """Have quantized layers answer in `dtype`, the arithmetic's, as others do under autocast.

    bitsandbytes answers in the dtype that it is asked in. On a GPU autocast computes layer norms in float32, so without
    this all that follows one would be float32 as well, between the blocks too, and take twice the memory.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.register_forward_pre_hook(lambda _, given: (given[0].to(dtype), *given[1:]))


def quantized(model: Any) -> list[Any]:
    """The parameters of a model that are in 4 bits."""
    from bitsandbytes.nn import Params4bit

    return [weight for weight in model.parameters() if isinstance(weight, Params4bit)]


def described(model: Any) -> dict[str, Any]:
    """Which layers of a model are quantized and which parameters are not, as plain JSON for a manifest."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    layers = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    kept = [weight for weight in model.parameters() if not isinstance(weight, Params4bit)]
    return {
        "scheme": "nf4",
        "double": True,
        "layers": len(layers),
        "parameters_kept": sum(weight.numel() for weight in kept),
        "kept_dtype": str(kept[0].dtype).removeprefix("torch."),
    }
