"""What a library says of itself, so that a loader needs nothing else: its model, its cache, and each parameter."""

from __future__ import annotations

from typing import Any

from compile.architectures import FAMILIES
from compile.caches import PREFILL_CHUNK, context_size
from compile.schemes import Scheme
from toolchain.contracts import library_metadata, tvm_package
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.targets import Target


def describe(
    facts: Architecture,
    scheme: Scheme,
    spec: FimSpec,
    target: Target,
    parameters: list[tuple[str, Any]],
    cache: dict[str, Any],
) -> dict[str, Any]:
    """What a loader must know, as plain JSON values; `parameters` are those of the model as it was traced, in order."""
    stored = FAMILIES[facts.family].weight_shapes(facts)
    context = context_size(facts, cache["kind"] == "paged")
    return {
        "metadata_version": library_metadata.VERSION,
        "model_type": facts.family,
        "parameters": facts.parameters,
        "quantization": scheme.name,
        "target": target.name,
        "tvm": tvm_package.find().release,
        "fim": spec.to_json(),
        "vocab_size": facts.vocab_size,
        "context_window_size": context,
        "prefill_chunk_size": min(PREFILL_CHUNK, context),
        "cache": cache,
        "params": [describe_parameter(name, parameter, scheme, stored) for name, parameter in parameters],
    }


def describe_parameter(name: str, parameter: Any, scheme: Scheme, stored: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """A parameter's name, shape and dtype in MLC's files, and the function that packs it to `packed_shape`, if any."""
    packed = [int(size) for size in parameter.shape]
    stem, _, ending = name.rpartition(".")
    shape = packed
    if ending in ("q_weight", "q_scale"):
        words, scales = scheme.stored_shapes(stored[f"{stem}.weight"])
        shape = list(words if ending == "q_weight" else scales)
    packer = None if shape == packed else f"pack_{ending}_{'_'.join(map(str, shape))}"
    return {"name": name, "shape": shape, "dtype": str(parameter.dtype), "packer": packer, "packed_shape": packed}
