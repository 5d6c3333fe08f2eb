"""Our conversion against mlc_llm's own converter (July 2026, q4f16_1): one checkpoint, equal bytes.

The checkpoint is random numbers of NumPy's PCG64, which are the same anywhere, with the tied head that MLC writes out.
The hashes are of what mlc_llm made of it: its shard, and its index entries as name, shape, dtype, file, offset, size.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compile import weights
from compile.schemes import SCHEMES
from toolchain.contracts import architectures
from toolchain.contracts.progress import Silent

pytestmark = pytest.mark.compile

VOCABULARY, POSITIONS, HIDDEN, LAYERS, HEADS, INNER = 512, 256, 256, 3, 4, 1024
CONFIG = {
    "model_type": "gpt_bigcode",
    "vocab_size": VOCABULARY,
    "n_positions": POSITIONS,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": INNER,
    "tie_word_embeddings": True,
}
SHARD = "e0477aa9d6fadeb07bf8ff56acdd70d7c0703053760ea6605a922eb837d0b5be"
ENTRIES = "9386665b1ea704cc4f6d4e1ee3f0d79fce81bc9ee60313cb63b37671339cf1f7"
METADATA = {"ParamSize": 56, "ParamBytes": 1364224.0, "BitsPerParam": 4.544747081712062}


def checkpoint() -> dict[str, np.ndarray]:
    """The order of the calls decides the numbers."""
    generator = np.random.default_rng(20261124)

    def draw(*shape: int, scale: float = 0.08) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    tensors = {"transformer.wte.weight": draw(VOCABULARY, HIDDEN), "transformer.wpe.weight": draw(POSITIONS, HIDDEN)}
    attention = HIDDEN + 2 * (HIDDEN // HEADS)
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            tensors[f"{at}.{norm}.weight"] = 1 + draw(HIDDEN, scale=0.05)
            tensors[f"{at}.{norm}.bias"] = draw(HIDDEN, scale=0.05)
        for name, outputs, inputs in (
            ("attn.c_attn", attention, HIDDEN),
            ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", INNER, HIDDEN),
            ("mlp.c_proj", HIDDEN, INNER),
        ):
            tensors[f"{at}.{name}.weight"] = draw(outputs, inputs)
            tensors[f"{at}.{name}.bias"] = draw(outputs, scale=0.05)
    tensors["transformer.ln_f.weight"] = 1 + draw(HIDDEN, scale=0.05)
    tensors["transformer.ln_f.bias"] = draw(HIDDEN, scale=0.05)
    return tensors


def test_bytes_are_those_of_mlcs_converter(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    save_file(checkpoint(), source / "model.safetensors")
    weights.convert(source, architectures.from_config(CONFIG), SCHEMES["q4f16_1"], out, Silent())

    assert sorted(path.name for path in out.iterdir()) == ["params_shard_0.bin", "tensor-cache.json"]
    assert hashlib.sha256((out / "params_shard_0.bin").read_bytes()).hexdigest() == SHARD
    index = json.loads((out / "tensor-cache.json").read_text(encoding="utf-8"))
    assert index["metadata"] == METADATA
    entries = [
        [entry["name"], entry["shape"], entry["dtype"], shard["dataPath"], entry["byteOffset"], entry["nbytes"]]
        for shard in index["records"]
        for entry in shard["records"]
    ]
    assert hashlib.sha256(json.dumps(entries).encode()).hexdigest() == ENTRIES
