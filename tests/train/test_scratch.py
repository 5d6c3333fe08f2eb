from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.tiny import SHAPE, TRAIN, Lines, interrupt, library_texts, load, opened
from toolchain.contracts import fim
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.bases.tokenization import open_text_tokenizer
from train.scratch import plan_scratch, train_tokenizer

pytestmark = pytest.mark.train

SETTINGS = replace(SHAPE, evaluate_every=6, evaluate_sequences=6, warmup_steps=2, learning_rate=5e-3)


@pytest.fixture(scope="module")
def grown(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grown") / "scratch"
    execute(plan_scratch(dataset, SETTINGS), out, Silent())
    return out


def test_a_base_grows_on_the_dataset(grown: Path) -> None:
    base = opened(grown)
    assert base.name == "scratch"
    assert base.facts.family == "gpt_bigcode"
    assert (base.facts.heads, base.facts.kv_heads, base.facts.head_size) == (1, 1, 64)
    assert base.facts.parameters == sum(weight.numel() for weight in load(grown).parameters())
    assert base.spec == fim.STARCODER


def test_it_learns_and_says_so(dataset: Path, tmp_path: Path) -> None:
    listener = Lines()
    made = execute(plan_scratch(dataset, replace(SETTINGS, max_steps=8)), tmp_path / "out", listener)
    start, end = made.facts["held_out"]["start"], made.facts["held_out"]["end"]
    assert end["loss"] < start["loss"] - 0.3
    assert made.facts["trained_parameters"] == made.facts["parameters"]
    assert listener.lines[-1] == (
        f"held-out loss {start['loss']:.3f} -> {end['loss']:.3f}, "
        f"bits per byte {start['bits_per_byte']:.3f} -> {end['bits_per_byte']:.3f}"
    )


def test_an_interrupted_one_ends_with_the_same_bits(dataset: Path, grown: Path, tmp_path: Path) -> None:
    plan = plan_scratch(dataset, SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "out", Lines(7, interrupt))
    execute(plan, tmp_path / "out", Silent())
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (grown / name).read_bytes()


def test_the_tokenizer_is_the_same_in_every_process(grown: Path) -> None:
    code = (
        "import hashlib, sys, tempfile; from pathlib import Path;"
        "from tests.train.tiny import SHAPE, TRAIN, library_texts; from train.scratch import train_tokenizer;"
        "folder = Path(tempfile.mkdtemp()); train_tokenizer(library_texts(TRAIN), SHAPE, folder);"
        "print(hashlib.sha256((folder / 'tokenizer.json').read_bytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert hashlib.sha256((grown / "tokenizer.json").read_bytes()).hexdigest() == other


def test_transformers_reads_the_tokenizer_as_we_do(grown: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(grown)
    ours = open_text_tokenizer(grown, fim.STARCODER.control_tokens)
    for text in (*library_texts(TRAIN[:2]), "é日本\U0001f600\r\n\t x  = 10"):
        assert theirs(text).input_ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.convert_tokens_to_ids(["<|endoftext|>", "<fim_prefix>"]) == [0, 1]
    assert theirs.eos_token_id == 0


def test_training_sequences_reach_every_position_of_the_context() -> None:
    """Learned positions that no training sequence reaches would be noise at the end of a long prompt."""
    assert SETTINGS.training().sequence_length == SETTINGS.context_size


def test_the_vocabulary_is_as_large_as_asked(tmp_path: Path) -> None:
    train_tokenizer(library_texts(TRAIN), replace(SHAPE, vocabulary=700), tmp_path)
    assert open_text_tokenizer(tmp_path, ()).tokenizer.get_vocab_size() == 700
