"""The base called `scratch`: a small GPTBigCode model with a tokenizer of its own, grown on the dataset in minutes.

It needs no model hub. What can be learnt in minutes is little; it shows the whole road, and any other base goes the
same way. Random weights and tokenizer are first written as a checkpoint, which is then trained like any other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolchain.contracts import architectures, fim
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.architectures import gpt_bigcode
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.manifest import Draft, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train import memory
from train.bases.base import open_base
from train.running import HERE, RunSettings
from train.samples.dataset import CODE, open_texts, read_manifest
from train.scratch_settings import ScratchSettings

RECIPE = 2
NAME = "scratch"
HEAD_SIZE = 64
TOKENIZER_CHARACTERS = 20_000_000
"""Text enough for a small vocabulary; more would only take time."""


def plan_scratch(dataset: Path, settings: ScratchSettings, running: RunSettings = HERE) -> Plan:
    """A checkpoint in float32, trained from random weights on `dataset` with the FIM objective."""
    parents = (Parent(kind="dataset", digest=read_manifest(dataset, CODE).digest, role="dataset"),)
    plain = contract_settings.to_json(settings)
    running.check()

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from train.fine_tune import train_fully
        from train.job import begin
        from train.run.states import kept_for_resuming

        with memory.room_for("this training", memory.FREE_SOME), kept_for_resuming(work):
            seedling, cache = work / "seedling", work / "cache"
            seedling.mkdir(parents=True, exist_ok=True)
            progress.start("Training a tokenizer")
            train_tokenizer(open_texts(dataset, "train", cache), settings, seedling)
            progress.finish()
            make_model(settings, seedling)
            base = open_base(str(seedling), cache)
            progress.say(f"{base.facts.parameters / 1e6:.1f} million parameters, {base.facts.vocab_size} tokens")
            draft.facts |= {"name": NAME, "method": NAME}
            train_fully(begin(base, dataset, settings.training(), running, plan, draft, work, progress))

    plan = Plan(kind="checkpoint", recipe=RECIPE, parents=parents, settings=plain, write=write)
    return plan


def shape(settings: ScratchSettings) -> Architecture:
    """The facts of the model, with a vocabulary that is full."""
    return architectures.from_config(_config(settings, settings.vocabulary))


def make_model(settings: ScratchSettings, folder: Path) -> None:
    """Write a GPTBigCode checkpoint with seeded random weights for the tokenizer in `folder`."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(fim.STARCODER.end_of_text)
    shaped = _config(settings, tokenizer.get_vocab_size())
    del shaped["model_type"]  # which the class itself says
    config = GPTBigCodeConfig(
        **shaped,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        dtype="float32",
    )
    torch.manual_seed(settings.seed)
    GPTBigCodeForCausalLM(config).save_pretrained(folder)


def _config(settings: ScratchSettings, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": gpt_bigcode.MODEL_TYPE,
        "vocab_size": vocabulary,
        "n_positions": settings.context_size,
        "n_embd": settings.hidden_size,
        "n_layer": settings.layers,
        "n_head": settings.hidden_size // HEAD_SIZE,
        "n_inner": 4 * settings.hidden_size,
        "activation_function": "gelu_pytorch_tanh",
        "multi_query": True,
    }


def train_tokenizer(texts: Sequence[str], settings: ScratchSettings, folder: Path) -> None:
    """Write a byte-level BPE tokenizer, with StarCoder's special tokens first and its way of splitting text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    spec = fim.STARCODER
    special = [spec.end_of_text, spec.prefix, spec.middle, spec.suffix, str(spec.pad)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts, settings.seed), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": spec.end_of_text,
        "eos_token": spec.end_of_text,
        "unk_token": spec.end_of_text,
        "additional_special_tokens": special[1:],
        "clean_up_tokenization_spaces": False,
        "model_max_length": settings.context_size,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _sample(texts: Sequence[str], seed: int) -> Iterator[str]:
    order = list(range(len(texts)))
    random.Random(f"{seed}/tokenizer").shuffle(order)
    left = TOKENIZER_CHARACTERS
    for index in order:
        yield texts[index][:left]
        left -= len(texts[index])
        if left <= 0:
            return
