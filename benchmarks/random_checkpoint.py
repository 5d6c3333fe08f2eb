"""Checkpoints of StarCoder's geometry in bfloat16, as Hugging Face writes them, a piece at a time.

Their weights are noise that exercises every exponent of a quantizer, or what a training would begin with: matrices
drawn with a standard deviation of 0.02, norms of one, biases of zero; or holes in the file, which read as zeros.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compile.architectures import FAMILIES
from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture

COMMON: dict[str, Any] = {"model_type": "gpt_bigcode", "vocab_size": 49152, "n_positions": 8192, "multi_query": True}
ONE_BILLION = COMMON | {"n_embd": 2048, "n_layer": 24, "n_head": 16, "n_inner": 8192}
STARCODER = COMMON | {"n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576}
SHARD_BYTES = 5_000_000_000
PIECE_BYTES = 64 << 20
INITIAL_DEVIATION = 0.02
Weights = Literal["noise", "initial", "holes"]


def starcoder() -> Architecture:
    return architectures.from_config(STARCODER)


def sized(wanted: float) -> Architecture:
    """starcoderbase-1b with as many layers as come closest to `wanted` bytes in bfloat16."""
    one, two = (architectures.from_config(ONE_BILLION | {"n_layer": n}).parameters * 2 for n in (1, 2))
    layers = max(1, 1 + round((wanted - one) / (two - one)))
    return architectures.from_config(ONE_BILLION | {"n_layer": layers})


def write_checkpoint(folder: Path, facts: Architecture, weights: Weights) -> None:
    """The model's tensors in safetensors shards with their index, and its configuration."""
    shapes = dict(FAMILIES[facts.family].weight_shapes(facts))
    del shapes["lm_head.weight"]  # tied
    folder.mkdir()
    shards: list[dict[str, int]] = [{}]
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if sum(shards[-1].values()) + size > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = size
    where: dict[str, str] = {}
    for number, sizes in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(sizes, file)
        header, offset = dict[str, Any](__metadata__={"format": "pt"}), 0
        for name, size in sizes.items():
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            draw = np.random.default_rng(number)
            if weights == "holes":
                stream.truncate(stream.tell() + offset)
            else:
                for name, size in sizes.items():
                    for piece in noise(size, draw) if weights == "noise" else initial(name, size, draw):
                        stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    index = {"metadata": {"total_size": sum(map(sum, (s.values() for s in shards)))}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = {**facts.config, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def noise(nbytes: int, draw: np.random.Generator) -> Iterator[memoryview]:
    """bfloat16 numbers of 2^-10 to 2^-2 and either sign, as bytes."""
    for count in pieces(nbytes):
        bits = draw.integers(0, 1 << 16, count, np.uint16)
        exponents = ((bits >> 7) & 7) + np.uint16(117)
        yield ((bits & 0x807F) | (exponents << 7)).data.cast("B")


def initial(name: str, nbytes: int, draw: np.random.Generator) -> Iterator[memoryview]:
    """What a weight called `name` has before any training, in bfloat16, as bytes."""
    layer, _, kind = name.rpartition(".")
    for count in pieces(nbytes):
        if kind == "bias":
            values = np.zeros(count, np.float32)
        elif "ln_" in layer:
            values = np.ones(count, np.float32)
        else:
            values = draw.standard_normal(count, np.float32) * np.float32(INITIAL_DEVIATION)
        yield (values.view(np.uint32) >> 16).astype(np.uint16).data.cast("B")


def pieces(nbytes: int) -> Iterator[int]:
    """How many bfloat16 numbers to write at a time."""
    return (min(PIECE_BYTES, nbytes - begin) // 2 for begin in range(0, nbytes, PIECE_BYTES))
