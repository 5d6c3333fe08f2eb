"""Merging a LoRA adapter into its base in 16 bits, one shard of the base at a time.

W' = W + scale · B · A in float32 (Hu et al. 2021, arXiv:2106.09685), its rows of DoRA's lengths where the adapter has
them, rounded once. Never into a quantized base: that destroys what was learnt, so quantization comes after, also for an
adapter that was trained over one (QLoRA). Rows of embeddings that the adapter holds are put into place as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import architectures, fim, manifest, weight_files
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.chat import template
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Draft, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from toolchain.contracts.tokenizer import FILE as TOKENIZER
from toolchain.contracts.tokenizer import open_tokenizer
from train.adapters.peft_folder import AGAIN, DOWN, MAGNITUDE, UP, Adapter, Rows, open_adapter
from train.bases.base import CONFIG, GENERATION_CONFIG, Base, copy_tokenizer, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

RECIPE = 2
HEAD = "lm_head.weight"


def plan_merge(adapter: Path, base: Base) -> Plan:
    """The checkpoint that `adapter` and `base` make together: the base's shards and names, in 16 bits.

    What an adapter of ours, or one with rows for tokens, carries of a tokenizer takes the place of the base's. Raises
    ArtifactError when the adapter was trained on another base or does not fit this one, and FimTokenError when neither
    has FIM tokens. An adapter from elsewhere, without a manifest, is taken by its fingerprint.
    """
    opened = open_adapter(adapter)
    parents = (Parent(kind="adapter", digest=_digest(adapter, base), role="adapter"), base.parent)
    headers = weight_files.read_headers(base.folder)
    _check_fit(opened, headers, base)
    rows = _rows_of_tables(opened, headers, base)
    facts = _grown(base.facts, rows)
    tokenizers = [base.folder, adapter] if manifest.is_whole(adapter) or rows else [base.folder]
    spec = _spec(adapter, tokenizers, base) if base.lacks else base.spec

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        shards = weight_files.shards(base.folder)
        progress.start("Merging", len(shards), "shards")
        for shard in shards:
            _merge_shard(shard, draft.path / shard.name, opened, rows)
            progress.advance()
        progress.finish()
        dtype = "bfloat16" if any(weight.dtype == "BF16" for weight in headers.values()) else "float16"
        _copy_index(base.folder, draft.path)
        _copy_config(base.folder, draft.path, {"vocab_size": facts.vocab_size}, dtype)
        for folder in tokenizers:
            copy_tokenizer(folder, draft.path)
        if (adapter / template.FILE).is_file():  # what it was taught to chat with, in place of the base's
            shutil.copyfile(adapter / template.FILE, draft.path / template.FILE)
        draft.facts |= {
            "name": base.name,
            "family": facts.family,
            "parameters": facts.parameters,
            "context_size": facts.context_size,
            "fim": spec.to_json(),
            "dtype": dtype,
            "merged_layers": len(opened.updates),
            **({"merged_rows": len(next(iter(rows.values())).ids)} if rows else {}),
        }

    return Plan(kind="checkpoint", recipe=RECIPE, parents=parents, settings={}, write=write)


def to_16_bits(name: str, weight: Tensor) -> Tensor:
    """bfloat16 stays, every other float becomes float16. Raises ArtifactError for NaN and for overflow, by name."""
    import torch

    if not weight.is_floating_point():
        return weight
    if not bool(weight.isfinite().all()):
        raise ArtifactError(
            f"{name} holds NaN or infinity", "Train with a lower --learning-rate, or fetch the base again."
        )
    if weight.dtype == torch.bfloat16:
        return weight
    narrow = weight.to(torch.float16)
    if not bool(narrow.isfinite().all()):
        raise ArtifactError(
            f"{name} holds {float(weight.abs().max()):g}, which is beyond float16", "Use a base in bfloat16."
        )
    return narrow


def merged(weight: Tensor, down: Tensor, up: Tensor, scale: float, magnitude: Tensor | None = None) -> Tensor:
    """`weight (N, K)` plus `scale` times `up (N, r)` times `down (r, K)`, in float32.

    `magnitude (N)`, where given, are the lengths that its rows then have.
    """
    total = weight.float() + scale * (up.float() @ down.float())
    return total if magnitude is None else total * (magnitude.float() / total.norm(dim=1))[:, None]


def with_rows(table: Tensor, ids: Sequence[int], rows: Tensor) -> Tensor:
    """`table (V, H)` with `rows (n, H)` at the indices `ids`, grown as far as they reach."""
    import torch

    size = max(len(table), max(ids) + 1)
    grown = torch.cat([table, table.new_zeros(size - len(table), table.shape[1])])
    grown[list(ids)] = rows.to(table.dtype)
    return grown


def _digest(adapter: Path, base: Base) -> str:
    if not manifest.is_whole(adapter):
        return fingerprint(adapter)
    known = manifest.read(adapter, "adapter")
    trained_on = next((parent.digest for parent in known.parents if parent.role == "base"), None)
    if trained_on != base.digest:
        raise ArtifactError(
            f"{adapter} was trained on {known.facts.get('name', 'another base')} with the digest "
            f"{str(trained_on)[:12]}, and {base.name} has {base.digest[:12]}",
            "Give the very base that it was trained on.",
        )
    return known.digest


def _check_fit(adapter: Adapter, headers: dict[str, weight_files.Weight], base: Base) -> None:
    for name, update in adapter.updates.items():
        if name not in headers:
            raise ArtifactError(
                f"{adapter.folder} changes {name}, which {base.name} does not have",
                "Give the base that the adapter was trained on.",
            )
        if headers[name].shape != (update.rows, update.columns):
            raise ArtifactError(
                f"{adapter.folder} has a {name} of {update.rows} x {update.columns}, and {base.name} one of "
                f"{' x '.join(map(str, headers[name].shape))}",
                "Give the base that the adapter was trained on.",
            )


def _rows_of_tables(adapter: Adapter, headers: dict[str, weight_files.Weight], base: Base) -> dict[str, Rows]:
    """The adapter's rows by the tables that they go into: also into the copy of a tied head, where one is stored."""
    tables = dict(adapter.rows)
    for name, rows in adapter.rows.items():
        if base.facts.tied_head and HEAD in headers:
            tables[HEAD] = rows
        if name not in headers or headers[name].shape[1:] != (rows.columns,):
            raise ArtifactError(
                f"{adapter.folder} has rows of {rows.columns} for {name}, which {base.name} has no place for",
                "Give the base that the adapter was trained on.",
            )
    size = _grown(base.facts, tables).vocab_size
    new = set(range(base.facts.vocab_size, size))
    untied = set() if base.facts.tied_head else {HEAD}
    if new and not (untied <= set(tables) and all(new <= set(rows.ids) for rows in tables.values())):
        raise ArtifactError(
            f"{adapter.folder} was trained with {size} tokens, and does not hold the rows of all new ones",
            "Merge it with the tool that it was trained with.",
        )
    return tables


def _grown(facts: Architecture, rows: Mapping[str, Rows]) -> Architecture:
    """The facts of a model whose tables have place for `rows`."""
    size = max([facts.vocab_size, *(max(row.ids) + 1 for row in rows.values())])
    return architectures.from_config(facts.config | {"vocab_size": size})


def _spec(adapter: Path, tokenizers: Sequence[Path], base: Base) -> fim.FimSpec:
    """The FIM tokens of a base that lacks some, once the adapter is merged: none where that was taught to chat alone.

    Raises FimTokenError unless the last tokenizer there is has what the base lacks.
    """
    if manifest.is_whole(adapter):
        taught = fim.FimSpec(**manifest.read(adapter, "adapter").facts["fim"])
        if not taught.fills:
            return taught
    folder = next((folder for folder in reversed(tokenizers) if (folder / TOKENIZER).is_file()), base.folder)
    if names := fim.lacking(base.spec, open_tokenizer(folder).token_to_id):
        raise fim.lacks(str(folder / TOKENIZER), names)
    return base.spec


def _merge_shard(source: Path, out: Path, adapter: Adapter, rows: Mapping[str, Rows]) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    with safe_open(source, framework="pt") as shard, safe_open(adapter.weights, framework="pt") as changes:
        metadata = shard.metadata() or {}
        for name in shard.keys():  # noqa: SIM118  # not a dict
            weight = shard.get_tensor(name)
            dtype = torch.bfloat16 if weight.dtype == torch.bfloat16 else torch.float16
            if update := adapter.updates.get(name):
                names = [update.stem + part for part in ((DOWN, UP, MAGNITUDE) if update.magnitude else (DOWN, UP))]
                parts = [changes.get_tensor(part) for part in names]
                for part, matrix in zip(names, parts, strict=True):
                    if not bool(matrix.isfinite().all()):
                        raise ArtifactError(f"{part} holds NaN or infinity", AGAIN)
                weight = merged(weight, parts[0], parts[1], update.scale, *parts[2:])
                # Rounding to bfloat16 cannot overflow unless the sum itself did, which is refused below.
                weight = weight.to(dtype) if dtype == torch.bfloat16 else weight
            if name in rows:
                weight = with_rows(weight, rows[name].ids, changes.get_tensor(rows[name].stem))
            tensors[name] = to_16_bits(name, weight)
    save_file(tensors, out, metadata={**metadata, "format": "pt"})


def _copy_index(base: Path, out: Path) -> None:
    """The shards keep their names and tensors; only the total size changes."""
    source = base / weight_files.INDEX
    if source.is_file():
        index: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        total = 0
        for shard in weight_files.shards(base):
            with (out / shard.name).open("rb") as stream:
                total += (out / shard.name).stat().st_size - 8 - int.from_bytes(stream.read(8), "little")
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        _write_json(out / source.name, index)


def _copy_config(base: Path, out: Path, changes: dict[str, Any], dtype: str) -> None:
    if (base / GENERATION_CONFIG).is_file():
        shutil.copyfile(base / GENERATION_CONFIG, out / GENERATION_CONFIG)
    config: dict[str, Any] = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    named = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    _write_json(out / CONFIG, config | changes | dict.fromkeys(named, dtype))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
