"""Checkpoints of StarCoder's geometry in bfloat16, as Hugging Face writes them, of random weights or of holes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compile.architectures import FAMILIES
from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture

COMMON: dict[str, Any] = {"model_type": "gpt_bigcode", "vocab_size": 49152, "n_positions": 8192, "multi_query": True}
ONE_BILLION = COMMON | {"n_embd": 2048, "n_layer": 24, "n_head": 16, "n_inner": 8192}
STARCODER = COMMON | {"n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576}
SHARD_BYTES = 5_000_000_000
PIECE_BYTES = 64 << 20


def starcoder() -> Architecture:
    return architectures.from_config(STARCODER)


def sized(wanted: float) -> Architecture:
    """starcoderbase-1b with as many layers as come closest to `wanted` bytes in bfloat16."""
    one, two = (architectures.from_config(ONE_BILLION | {"n_layer": n}).parameters * 2 for n in (1, 2))
    layers = max(1, 1 + round((wanted - one) / (two - one)))
    return architectures.from_config(ONE_BILLION | {"n_layer": layers})


def write_checkpoint(folder: Path, facts: Architecture, sparse: bool) -> None:
    """The model's tensors in safetensors shards with their index."""
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
        header, offset = {}, 0
        for name, size in sizes.items():
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            if sparse:
                stream.truncate(stream.tell() + offset)
            else:
                for piece in random_weights(offset, number):
                    stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    index = {"metadata": {"total_size": sum(map(sum, (s.values() for s in shards)))}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def random_weights(nbytes: int, seed: int) -> Iterator[memoryview]:
    """bfloat16 numbers of 2^-10 to 2^-2 and either sign, as bytes."""
    draw = np.random.default_rng(seed)
    for begin in range(0, nbytes, PIECE_BYTES):
        bits = draw.integers(0, 1 << 16, min(PIECE_BYTES, nbytes - begin) // 2, np.uint16)
        exponents = ((bits >> 7) & 7) + np.uint16(117)
        yield ((bits & 0x807F) | (exponents << 7)).data.cast("B")
