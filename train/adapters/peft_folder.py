"""Reading a LoRA adapter in PEFT's layout: which of the base's weights it changes, and by what.

That are linear layers, and rows of the embeddings where tokens were trained (`trainable_token_indices`).

Scale and patterns as in PEFT's `LoraLayer`: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA
(Kalajdzievski 2023, arXiv:2312.03732); DoRA's magnitudes (Liu et al. 2024, arXiv:2402.09353). What this cannot express
exactly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts import manifest, weight_files
from toolchain.contracts.errors import ArtifactError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
ROWS = ".token_adapter.trainable_tokens_delta"
PLAIN = "Use a plain LoRA adapter of linear layers."
AGAIN = "Fetch the adapter again, or remove it and train it again."
REFUSED: dict[str, tuple[Any, ...]] = {
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
}
"""Options of PEFT that change more than W + scale · B · A, with the values that switch them off."""


@dataclass(frozen=True)
class Update:
    """The base's weight `name`, of shape `(N, K)`, gets `scale · B · A`; A is `(r, K)` and B `(N, r)`.

    With `magnitude`, DoRA's, the rows of the sum are then scaled to lengths of their own, `(N)`.
    """

    name: str
    stem: str
    rows: int
    columns: int
    scale: float
    magnitude: bool


@dataclass(frozen=True)
class Rows:
    """The base's table `name` gets the tensor `stem`, `(n, columns)`, as its rows `ids`, where it may have to grow."""

    name: str
    stem: str
    ids: tuple[int, ...]
    columns: int


@dataclass(frozen=True)
class Adapter:
    """By the names of the base's weights, the `updates` of its linear layers and the `rows` of its embeddings."""

    folder: Path
    updates: dict[str, Update]
    rows: dict[str, Rows]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def open_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`. Raises ArtifactError when it is no LoRA, not whole, or cannot be merged exactly."""
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = any(folder.glob("adapter_model.bin"))
        problem = "holds its weights as pickle, which can run code" if pickled else f"has no {WEIGHTS}"
        raise ArtifactError(f"{folder} {problem}", "Save the adapter in safetensors.")
    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"{folder} is an adapter of the type {config.get('peft_type')}, not LoRA", PLAIN)
    for name, plain in REFUSED.items():
        if config.get(name) not in plain:
            what = f"an adapter with {name}={config[name]!r}"
            raise ArtifactError(f"{folder} is {what}, which cannot be merged", PLAIN)
    parts = (DOWN, UP, MAGNITUDE) if config.get("use_dora") else (DOWN, UP)
    header = weight_files.read_header(folder / WEIGHTS)
    foreign = [name for name in header if not (name.startswith(PREFIX) and name.endswith((*parts, ROWS)))]
    if foreign:
        raise ArtifactError(f"{folder} holds {foreign[0]}, which is no weight of a linear layer's LoRA", PLAIN)
    stems = sorted({_stem(name) for name in header if not name.endswith(ROWS)})
    if not stems:
        raise ArtifactError(f"{folder} holds no weights", AGAIN)
    updates = (_update(folder, stem, header, config) for stem in stems)
    rows = (_rows(folder, name, weight.shape, config) for name, weight in header.items() if name.endswith(ROWS))
    return Adapter(folder, {update.name: update for update in updates}, {row.name: row for row in rows})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        whole = manifest.is_whole(folder) and manifest.read(folder).kind == "checkpoint"
        if whole or (folder / "config.json").is_file():
            raise ArtifactError(f"{folder} is a whole checkpoint, not an adapter", "Compile it as it is.")
        raise ArtifactError(f"{folder} has no {CONFIG}", "Name an adapter folder in PEFT's layout.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "Mend or replace the file.") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} is not an object", "Mend or replace the file.")
    return config


def _update(folder: Path, stem: str, header: dict[str, weight_files.Weight], config: dict[str, Any]) -> Update:
    down, up = header.get(stem + DOWN), header.get(stem + UP)
    name = stem.removeprefix(PREFIX)
    if down is None or up is None or len(down.shape) != 2 or len(up.shape) != 2:
        raise ArtifactError(f"{folder} lacks one of the two matrices of {name}", AGAIN)
    try:
        rank = int(_for_layer(config.get("rank_pattern"), name, config["r"]))
        alpha = float(_for_layer(config.get("alpha_pattern"), name, config["lora_alpha"]))
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise ArtifactError(f"{folder / CONFIG} has no usable rank and alpha ({error})", PLAIN) from None
    if not down.shape[0] == up.shape[1] == rank:
        raise ArtifactError(
            f"{name} in {folder} has rank {down.shape[0]}, and {CONFIG} says {rank}",
            "Use the configuration and the weights of one adapter.",
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    dora = bool(config.get("use_dora"))
    if dora and (stem + MAGNITUDE not in header or header[stem + MAGNITUDE].shape != (up.shape[0],)):
        raise ArtifactError(f"{folder} is a DoRA adapter and lacks the magnitudes of {name}", AGAIN)
    return Update(f"{name}.weight", stem, up.shape[0], down.shape[1], scale, dora)


def _rows(folder: Path, stem: str, shape: tuple[int, ...], config: dict[str, Any]) -> Rows:
    layer = stem.removeprefix(PREFIX).removesuffix(ROWS)
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((ids for name, ids in indices.items() if f".{layer}".endswith(f".{name}")), None)
    ids = indices if isinstance(indices, list) else []
    known = {number for number in ids if isinstance(number, int) and number >= 0}
    if not ids or len(known) != len(ids) or len(shape) != 2 or shape[0] != len(ids):
        raise ArtifactError(
            f"{folder / CONFIG} does not say which tokens the rows of {layer} belong to",
            "Use the configuration and the weights of one adapter.",
        )
    return Rows(f"{layer}.weight", stem, tuple(ids), shape[1])


def _stem(name: str) -> str:
    for part in (DOWN, UP, MAGNITUDE):
        name = name.removesuffix(part)
    return name


def _for_layer(patterns: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a layer's name, as PEFT's `get_pattern_key` does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
