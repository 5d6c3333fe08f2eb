"""Small and real: a dataset of a few standard library files, and a GPTBigCode model of two narrow layers."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from toolchain.contracts import fim
from toolchain.contracts.manifest import writing
from toolchain.contracts.stage import Plan, execute
from train import devices
from train.bases import models, quantization
from train.bases.base import Base, open_base
from train.bases.tokenization import open_text_tokenizer
from train.distributed import World
from train.run.loss import Losses, score
from train.samples.dataset import open_texts
from train.samples.fim import Sampler
from train.samples.stream import held_out_batches
from train.scratch import make_model, train_tokenizer
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

# Models this small are faster in one thread, by far when the machine has other work.
torch.set_num_threads(1)

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TRAIN = ("json/decoder.py", "json/encoder.py", "textwrap.py", "shlex.py", "bisect.py", "heapq.py", "csv.py")
HELD_OUT = ("json/scanner.py", "json/tool.py", "fnmatch.py")
SHAPE = ScratchSettings(vocabulary=512, hidden_size=64, layers=2, context_size=128, batch_size=4, max_steps=12)
LORA = TrainSettings(
    sequence_length=128,
    max_steps=12,
    batch_size=4,
    gradient_accumulation=1,
    learning_rate=2e-2,
    warmup_steps=2,
    lora_dropout=0.1,
    evaluate_every=4,
    evaluate_sequences=8,
    save_every=3,
)
FULL = replace(LORA.with_method("full"), learning_rate=5e-3, gradient_accumulation=2)


def library_texts(names: tuple[str, ...]) -> list[str]:
    return [(LIBRARY / name).read_text(encoding="utf-8") for name in names]


def write_dataset(folder: Path, train: list[str], held_out: list[str]) -> Path:
    """A dataset artifact such as `fimble collect` writes."""
    with writing(folder, kind="dataset", recipe=1, parents=(), settings={}) as draft:
        (draft.path / "data").mkdir()
        for split, texts in (("train", train), ("heldout", held_out)):
            rows = [
                {
                    "repository": "tiny",
                    "path": f"{split}/{number}.py",
                    "commit": "0" * 40,
                    "language": "Python",
                    "license": "PSF-2.0",
                    "content": text,
                }
                for number, text in enumerate(texts)
            ]
            path = draft.path / "data" / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return folder


def write_base(folder: Path, dtype: torch.dtype = torch.float32, shape: ScratchSettings = SHAPE) -> Path:
    """A checkpoint with random weights and a tokenizer trained on the tiny dataset."""
    folder.mkdir()
    train_tokenizer(library_texts(TRAIN), shape, folder)
    make_model(shape, folder)
    if dtype != torch.float32:
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    return folder


def write_base_without_fim(folder: Path, tied: bool = True, spare: int = 0) -> Path:
    """A Llama of two narrow layers; `spare` rows of its embeddings belong to no token.

    Of control tokens it has an end of text and, as SmolLM2 does, those of StarCoder2 for files and repositories.
    """
    folder.mkdir()
    train_tokenizer(library_texts(TRAIN), SHAPE, folder)
    path = folder / "tokenizer.json"
    renamed = path.read_text().replace("<fim_pad>", "<repo_name>").replace("<fim_middle>", "<file_sep>")
    tokenizer, named = json.loads(renamed), {"<fim_prefix>", "<fim_suffix>"}
    vocabulary = [token for token in tokenizer["model"]["vocab"] if token not in named]
    tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(vocabulary)}
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] not in named]
    path.write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"additional_special_tokens": []}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    shape = AutoConfig.for_model(
        "llama",
        vocab_size=len(vocabulary) + spare,
        max_position_embeddings=SHAPE.context_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def opened(folder: Path) -> Base:
    return open_base(str(folder), folder.parent / "cache")


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """What the one file of weights in a folder holds, by name."""
    (file,) = folder.glob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights to the bit."""
    mine, its = weights_in(one), weights_in(other)
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def reopened(base: Base, folder: Path, settings: TrainSettings) -> Losses:
    """What a training wrote, opened anew as it was while it was trained, with its losses."""
    from peft import PeftModel

    device = torch.device("cpu")
    dtype = devices.arithmetic(settings.dtype, device)
    if not settings.adapts:
        return Losses(models.open_model(folder, torch.float32, device), dtype)
    quantized = quantization.nf4(dtype) if settings.method == "qlora" else None
    model = models.open_model(base.folder, dtype, device, quantization=quantized)
    return Losses(PeftModel.from_pretrained(model, folder), dtype)


def held_out_loss(losses: Losses, base: Base, dataset: Path, settings: TrainSettings, cache: Path) -> float:
    """Nats a token on the held-out files, all of whose samples are fill-in-the-middle."""
    tokenizer = open_text_tokenizer(base.folder, base.spec.control_tokens)
    ids = fim.resolve(base.spec, tokenizer.tokenizer.token_to_id)
    sampler = Sampler(tokenizer, ids, base.spec.orders, settings.sequence_length, fim_rate=1.0, spm_rate=0.5, seed=0)
    texts = open_texts(dataset, "heldout", cache)
    batches = held_out_batches(texts, sampler, settings.batch_size, settings.evaluate_sequences)
    return score(losses, batches, ids.control, World(0, 1, torch.device("cpu"))).loss


@contextmanager
def norms_noted() -> Iterator[list[float]]:
    """The norm of each step's gradient. AdamW hardly depends on it, so losses alone would not show a wrong scale."""
    clip, norms = torch.nn.utils.clip_grad_norm_, list[float]()

    def noting(*arguments: Any) -> Any:
        norm: Any = clip(*arguments)
        norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
        return norm

    torch.nn.utils.clip_grad_norm_ = noting
    try:
        yield norms
    finally:
        torch.nn.utils.clip_grad_norm_ = clip


class Lines:
    """A listener that keeps what is said and what was finished, and may do something when a given step is done."""

    def __init__(self, at_step: int | None = None, action: Any = None) -> None:
        self.lines: list[str] = []
        self.finished: list[str] = []
        self.tables: list[dict[str, str]] = []
        self._title = ""
        self._at, self._action, self._step = at_step, action, 0

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self._step, self._title = 0, title

    def table(self, values: Mapping[str, str]) -> None:
        self.tables.append(dict(values))

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._step += amount
        if self._title == "Training" and self.tables and self._step == self._at:
            self._action()

    def finish(self) -> None:
        self.finished.append(self._title)

    def say(self, line: str) -> None:
        self.lines.append(line)


def fail() -> None:
    raise OSError("the lights went out")


def interrupt() -> None:
    raise KeyboardInterrupt


def failed_and_resumed(plan: Plan, out: Path, steps: Sequence[int] = (4, 10)) -> Lines:
    """Carry out `plan` until it fails after each of `steps`, counted from where it began, and then to its end."""
    for step in steps:
        with pytest.raises(OSError, match="the lights"):
            execute(plan, out, Lines(step, fail))
    resumed = Lines()
    execute(plan, out, resumed)
    return resumed


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Have `package` count as not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
