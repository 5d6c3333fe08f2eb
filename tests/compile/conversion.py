"""Checkpoints to convert, written without the library that users write them with, and a conversion of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from compile import tensor_cache, weights
from compile.schemes import SCHEMES
from toolchain.contracts import architectures
from toolchain.contracts.progress import Silent

Tensors = dict[str, np.ndarray]
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
# Neither 72 nor 500 is a multiple of the group.
CONFIG = {
    "model_type": "gpt_bigcode",
    "vocab_size": 300,
    "n_positions": 50,
    "n_embd": 72,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 500,
}


class Recording(Silent):
    """A listener that remembers."""

    def __init__(self) -> None:
        self.total, self.unit, self.steps, self.finished = 0, "", list[int](), False

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self.total, self.unit = total or 0, unit

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.steps.append(amount)

    def finish(self) -> None:
        self.finished = True


def draw(tied: bool = True, seed: int = 0) -> Tensors:
    """A GPTBigCode checkpoint of CONFIG."""
    facts = architectures.from_config(CONFIG | {"tie_word_embeddings": tied})
    random = np.random.default_rng(seed)
    shapes = weights.FAMILIES[facts.family].weight_shapes(facts)
    tensors = {name: random.standard_normal(shape) * 0.1 for name, shape in shapes.items()}
    if tied:
        del tensors["lm_head.weight"]
    return tensors


def save(folder: Path, tensors: Tensors, dtype: str = "F32", shards: int = 1, tied: bool = True) -> Path:
    """Write a checkpoint in safetensors, the format restated."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}), encoding="utf-8")
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        header, data = {}, b""
        for name in list(tensors)[number::shards]:
            with np.errstate(over="ignore"):
                raw = tensors[name].astype(DTYPES[dtype]).tobytes()
            header[name] = {
                "dtype": dtype,
                "shape": tensors[name].shape,
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data, where[name] = data + raw, file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    return folder


def convert(source: Path, scheme: str, out: Path, progress: Any = None, work: Path | None = None) -> Path:
    out.mkdir()
    weights.convert(source, architectures.read(source), SCHEMES[scheme], out, progress or Silent(), work)
    return out


def in_small_pieces() -> None:
    """Shards and blocks so small that a tiny checkpoint has many."""
    tensor_cache.SHARD_BYTES, weights.BLOCK_WEIGHTS = 8 << 10, 1 << 10


def index(out: Path) -> dict[str, Any]:
    return json.loads((out / tensor_cache.INDEX).read_text(encoding="utf-8"))
