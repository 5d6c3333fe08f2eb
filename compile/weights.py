"""A checkpoint's weights to MLC's: renamed, quantized, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile import checkpoint, quantization, tensor_cache
from compile.architectures import FAMILIES
from compile.schemes import Scheme
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress
from toolchain.contracts.weight_files import Weight


def convert(source: Path, facts: Architecture, scheme: Scheme, out: Path, progress: Progress) -> None:
    """Write the weights of the checkpoint `source` to the folder `out`.

    Raises ArtifactError when a tensor is missing, has another shape than the config says, or holds NaN or infinity.
    """
    names = FAMILIES[facts.family].weight_map(facts)
    entries = checkpoint.index(source)
    missing = sorted({theirs for parts in names.values() for theirs in parts if theirs not in entries})
    if missing:
        raise ArtifactError(
            f"{source} lacks {len(missing)} tensor(s), the first is {missing[0]}",
            "Fetch or write the checkpoint again.",
        )
    shapes = FAMILIES[facts.family].weight_shapes(facts)
    for ours, parts in names.items():
        found = [entries[theirs].shape for theirs in parts]
        if (sum(shape[0] for shape in found), *found[0][1:]) != shapes[ours]:
            raise ArtifactError(
                f"{parts[0]} in {source} has the shape {found[0]}, its config.json says {shapes[ours]}",
                "Use the config.json that belongs to the checkpoint.",
            )
    plan = {ours: tuple(entries[theirs] for theirs in parts) for ours, parts in sorted(names.items())}
    progress.start("weights", len(plan), "tensors")
    tensor_cache.write(out, _tensors(plan, scheme, progress), _metadata(plan, scheme))
    progress.finish()


def _tensors(
    plan: Mapping[str, tuple[Weight, ...]], scheme: Scheme, progress: Progress
) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, parts in plan.items():
        tensor = np.concatenate([checkpoint.load(part) for part in parts])
        with np.errstate(over="ignore"):
            tensor = tensor.astype(scheme.dtype)
        if not np.isfinite(tensor).all():
            raise ArtifactError(
                f"{name} holds NaN or values beyond {scheme.dtype}", "Train or merge again; this checkpoint is damaged."
            )
        if scheme.quantized and tensor.ndim == 2:
            words, scales = quantization.quantize(tensor, scheme)
            stem = name.removesuffix("weight")
            yield stem + "q_weight", words
            yield stem + "q_scale", scales
        else:
            yield name, tensor
        progress.advance()


def _metadata(plan: Mapping[str, tuple[Weight, ...]], scheme: Scheme) -> dict[str, float]:
    """MLC's summary: stored tensors, their bytes, and bits per parameter of the model."""
    width = np.dtype(scheme.dtype).itemsize
    tensors, size, parameters = 0, 0, 0
    for parts in plan.values():
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        count = int(np.prod(shape))
        parameters += count
        if scheme.bits is not None and len(shape) == 2:
            (outputs, words), (_, groups) = quantization.quantized_shapes(shape, scheme.bits)
            tensors, size = tensors + 2, size + outputs * (words * 4 + groups * width)
        else:
            tensors, size = tensors + 1, size + count * width
    return {"ParamSize": tensors, "ParamBytes": float(size), "BitsPerParam": size * 8.0 / parameters}
