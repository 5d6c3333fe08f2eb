"""Tiny random checkpoints of every family, and the odd variants that real models have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.contracts import architectures

FAMILIES = list(architectures.FAMILIES)
# 500 is no multiple of the vector lanes, so the kernels' last block is partly empty.
VOCABULARY, CONTEXT = 500, 160
NEWER = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Each family under its own name, and the odd ones behind it.
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {
        "model_type": "gpt_bigcode",
        "vocab_size": VOCABULARY,
        "n_positions": CONTEXT,
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "llama": NEWER | {"model_type": "llama"},
    # SmolLM2 ties its head; Llama 3.1 scales its positions; some Llamas have biases.
    "llama-tied-biased-scaled": NEWER
    | {
        "model_type": "llama",
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": LLAMA3_ROPE,
    },
    # Three query heads share a key head, and heads are no wider than the lanes of AVX-512.
    "qwen2": NEWER | {"model_type": "qwen2", "hidden_size": 96, "num_attention_heads": 6, "tie_word_embeddings": True},
    "qwen2-untied": NEWER | {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    # The context is longer than the window.
    "starcoder2": NEWER | {"model_type": "starcoder2", "sliding_window": 50},
}


def random_model(variant: str) -> Any:
    """Transformers' model of a variant with random weights, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = dict(VARIANTS[variant])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if parameter.ndim == 1 else 0.0))
    return model


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of VOCABULARY tokens with StarCoder's FIM tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
