"""Compiling a model for processors: an archive of object files that describes itself.

The library exports Relax functions: `prefill`, `decode` and `score` (ids, position, keys, values, parameters), a
`pack_*` for each layout that differs from MLC's, and `_metadata`, which gives the JSON that `describe` makes. A
loader needs nothing else: it reads MLC's files, packs each parameter as told, and makes the KV cache as told.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from compile.architectures import FAMILIES
from compile.chat_config import PREFILL_CHUNK
from compile.kernels.cpu import quantized_matmul
from compile.layers import cpu
from compile.layers.cpu import CpuLayers
from compile.schemes import Scheme
from toolchain.contracts import object_archive, tvm_package
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.processors import LEVELS
from toolchain.contracts.targets import Target

METADATA_VERSION = 2
# What LLVM calls each machine and each operating system.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
SYSTEMS = {"linux": "unknown-linux-gnu", "macos": "apple-macos11", "windows": "pc-windows-msvc"}


def build(facts: Architecture, scheme: Scheme, spec: FimSpec, target: Target, out: Path) -> None:
    """Compile the model for a processor, and write the library to the file `out`. No linker is needed."""
    device = tvm.target.Target(description(target))
    layers = CpuLayers(scheme, LEVELS[target.level].lanes)
    model = FAMILIES[facts.family].Model(facts, layers)
    with device:
        module, parameters = model.export_tvm(spec=cpu.functions(model, layers, facts))
        metadata = describe(facts, layers, spec, target, parameters)
        builder = relax.BlockBuilder(_with_bounds(module, metadata["prefill_chunk_size"]))
        for packed in {p["packer"]: p for p in metadata["params"] if p["packer"]}.values():
            _add_packer(builder, packed, layers)
        with builder.function("_metadata", params=[]):
            builder.emit_func_output(tvm.ir.StringImm(json.dumps(metadata)))
        executable = relax.build(builder.finalize(), target=device, relax_pipeline=cpu_pipeline())
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        executable.export_library(str(out), fcompile=_archive, workspace_dir=scratch)


def description(target: Target) -> dict[str, Any]:
    """TVM's description of a processor."""
    level = LEVELS[target.level]
    apple = target.system == "macos" and level.machine == "arm64"
    return {
        "kind": "llvm",
        "mtriple": f"{'arm64' if apple else MACHINES[level.machine]}-{SYSTEMS[target.system]}",
        "mcpu": level.name if level.machine == "x86_64" else "apple-m1" if apple else "generic",
    }


def describe(
    facts: Architecture, layers: CpuLayers, spec: FimSpec, target: Target, parameters: list[tuple[str, Any]]
) -> dict[str, Any]:
    """What a loader must know, as JSON. The cache is two tensors of `axes`, "blocks" being context / block."""
    keys, values = cpu.cache_shapes(layers, facts, "blocks")
    stored = FAMILIES[facts.family].weight_shapes(facts)
    return {
        "metadata_version": METADATA_VERSION,
        "model_type": facts.family,
        "parameters": facts.parameters,
        "quantization": layers.scheme.name,
        "target": target.name,
        "tvm": tvm_package.find().release,
        "fim": spec.to_json(),
        "vocab_size": facts.vocab_size,
        "context_window_size": facts.context_size,
        "prefill_chunk_size": min(PREFILL_CHUNK, facts.context_size),
        "cache": {"block": layers.lanes, "dtype": layers.scheme.dtype, "keys": keys, "values": values},
        "params": [_describe_parameter(name, parameter, layers.scheme, stored) for name, parameter in parameters],
    }


def _describe_parameter(
    name: str, parameter: Any, scheme: Scheme, stored: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """A parameter's name, shape and dtype in MLC's files, and the function that packs it to `packed_shape`, if any."""
    packed = [int(size) for size in parameter.shape]
    stem, _, ending = name.rpartition(".")
    shape = packed
    if ending in ("q_weight", "q_scale"):
        outputs, inputs = stored[f"{stem}.weight"]
        groups = -(-inputs // quantized_matmul.GROUP)
        shape = [outputs, groups * (scheme.bits or 0) if ending == "q_weight" else groups]
    packer = None if shape == packed else f"pack_{ending}_{'_'.join(map(str, shape))}"
    return {"name": name, "shape": shape, "dtype": str(parameter.dtype), "packer": packer, "packed_shape": packed}


def _with_bounds(module: Any, most_tokens: int) -> Any:
    """Tell the memory planner how many tokens a call takes at most.

    It then plans memory with plain numbers. Sizes that depend on the count would be computed at run time in an order
    that TVM takes from addresses, and no two builds would be equal.
    """
    bounded = tvm.IRModule(dict(module.functions.items()))
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            bounded[variable] = function.with_attr("tir_var_upper_bound", {"count": most_tokens})
    return bounded


def _add_packer(builder: Any, parameter: dict[str, Any], layers: CpuLayers) -> None:
    """Export the function that packs parameters of one shape.

    One for each shape: with symbolic sizes TVM orders a product by addresses, and no two builds would be equal.
    """
    if parameter["dtype"] == "uint32":
        pack = quantized_matmul.pack_words(layers.lanes, layers.scheme.bits or 0)
    else:
        pack = quantized_matmul.pack_scales(layers.lanes, parameter["dtype"])
    source = relax.Var("source", relax.TensorType(parameter["shape"], parameter["dtype"]))
    kernel = builder.add_func(pack, f"{parameter['packer']}_kernel")
    with builder.function(parameter["packer"], params=[source]):
        packed_type = relax.TensorType(parameter["packed_shape"], parameter["dtype"])
        builder.emit_func_output(builder.emit(relax.call_tir(kernel, [source], packed_type)))


def _archive(output: str, objects: list[str], options: Any = None, **_: Any) -> None:
    """The face that TVM's `export_library` asks of a linker."""
    object_archive.write(Path(output), {f"{at}.o": Path(file).read_bytes() for at, file in enumerate(objects)})


def cpu_pipeline() -> Any:
    """Relax to VM bytecode. Our kernels are scheduled already, so no tuning and no default schedules."""
    transform = relax.transform
    return tvm.transform.Sequential(
        [
            transform.LegalizeOps(),
            transform.FoldConstant(),
            transform.DeadCodeElimination(),
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )
