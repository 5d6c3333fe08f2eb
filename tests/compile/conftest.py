"""A tiny random GPTBigCode checkpoint, and its compiled libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.contracts import architectures
from toolchain.contracts.progress import Silent

# 500 is no multiple of the vector lanes, so the kernels' last block is partly empty.
SHAPE = {"vocab_size": 500, "n_positions": 160, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_inner": 256}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    torch.manual_seed(0)
    config = GPTBigCodeConfig(**SHAPE, multi_query=True, bos_token_id=0, eos_token_id=0)
    model = GPTBigCodeForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if parameter.ndim == 1 else 0.0))
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def runner_of(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    """The compiled model in a scheme, loaded with its converted weights."""
    from compile import library, weights
    from compile.schemes import parse_scheme
    from serve.engine.tvm_runner import TvmRunner

    made: dict[str, object] = {}

    def make(name: str) -> object:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            facts, scheme = architectures.read(checkpoint), parse_scheme(name)
            weights.convert(checkpoint, facts, scheme, folder, Silent())
            library.build(facts, scheme, folder / "model.so")
            made[name] = TvmRunner(folder / "model.so", folder)
        return made[name]

    return make
