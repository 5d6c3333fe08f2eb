"""A real bundle that is small enough to be made in seconds: StarCoder's architecture with random weights."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.random_checkpoint import COMMON, write_checkpoint
from compile.bundle import plan_compile
from compile.settings import CompileSettings
from toolchain.contracts import architectures
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.manifest import Parent
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute

ROOT = Path(__file__).parents[1]
FILES = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("[cst]*/**/*.py"))]
CODE = [text for text in FILES if len(text) > 6000 and "<fim_" not in text]
"""Where a FIM prompt ends and its text begins cannot be told of files that spell FIM tokens out."""
CONFIG = COMMON | {"vocab_size": 4096, "n_positions": 1024, "n_embd": 128, "n_layer": 2, "n_head": 2, "n_inner": 512}


def small_bundle(folder: Path) -> Path:
    """A bundle of the model in `folder`, with a tokenizer of this repository's code."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    write_checkpoint(checkpoint, architectures.from_config(CONFIG), "noise")
    _tokenizer().save(str(checkpoint / "tokenizer.json"))
    parent = Parent(kind="checkpoint", digest="0" * 64)
    execute(plan_compile(checkpoint, parent, CompileSettings(name="small")), bundle, Silent())
    return bundle


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=list(STARCODER.control_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CODE, trainer)
    return tokenizer
