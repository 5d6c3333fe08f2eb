"""Compiling a model for a device: a library that describes itself.

A library exports the functions of its cache (`compile/caches/`), a `pack_*` for each layout that differs from MLC's,
and `_metadata`, which gives the JSON that `compile/metadata.py` makes. A loader needs nothing else: it reads MLC's
files, packs each parameter as told, and makes the cache as told. For processors it is an archive of object files, which
are loaded as they are; for GPUs a shared library.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from compile import cuda, devices, linker, metadata
from compile.architectures import FAMILIES
from compile.caches import explicit, paged
from compile.kernels.cpu import quantized_matmul
from compile.kernels.gpu.binding import bind_threads
from compile.kernels.gpu.paged_attention import merge_in_order
from compile.layers.cpu import CpuLayers
from compile.layers.gpu import GpuLayers
from compile.schemes import Scheme
from toolchain.contracts import object_archive
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.processors import LEVELS
from toolchain.contracts.targets import Target


def build(facts: Architecture, scheme: Scheme, spec: FimSpec, target: Target, out: Path, pages: bool = False) -> None:
    """Compile the model for `target` and write the library to the file `out`.

    `pages` gives a library for a processor the paged cache, which GPUs have always.
    Raises UnknownTarget when the installed TVM cannot compile for it, MissingExtra when a GPU's library needs a linker
    and there is none.
    """
    device = devices.device(target)
    layers = layers_of(scheme, target)
    model = FAMILIES[facts.family].Model(facts, layers)
    with device, cuda.fatbins(target.archs) if target.device == "cuda" else nullcontext():
        if pages or isinstance(layers, GpuLayers):
            functions, cache = paged.functions(model, layers, facts, device), paged.describe()
        else:
            functions, cache = explicit.functions(model, layers, facts), explicit.describe(layers, facts)
        module, parameters = model.export_tvm(spec=functions)
        if target.device != "cpu":
            module = merge_in_order(module)
        told = metadata.describe(facts, scheme, spec, target, parameters, cache)
        builder = relax.BlockBuilder(_with_bounds(module, told["prefill_chunk_size"]))
        if isinstance(layers, CpuLayers):
            for packed in {p["packer"]: p for p in told["params"] if p["packer"]}.values():
                _add_packer(builder, packed, layers)
        with builder.function("_metadata", params=[]):
            builder.emit_func_output(tvm.ir.StringImm(json.dumps(told)))
        # For GPUs, TVM moves what expressions share out of kernels, also where only the kernel knows its variables.
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": target.device != "cpu"}):
            executable = relax.build(builder.finalize(), target=device, relax_pipeline=pipeline(device))
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        write = _archive if target.extension == "a" else partial(_link, target=target)
        executable.export_library(str(out), fcompile=write, workspace_dir=scratch)


def layers_of(scheme: Scheme, target: Target) -> CpuLayers | GpuLayers:
    if target.device == "cpu":
        return CpuLayers(scheme, LEVELS[target.level].lanes)
    return GpuLayers(scheme, devices.LIMITS[target.device])


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
        pack = quantized_matmul.pack_words(layers.lanes, layers.scheme.bits)
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


def _link(output: str, objects: list[str], options: Any = None, *, target: Target, **_: Any) -> None:
    linker.link(Path(output), [Path(file) for file in objects], target)


def pipeline(device: Any) -> Any:
    """Relax to VM bytecode. Our kernels are scheduled already, so no tuning, and default schedules only for strays."""
    transform = relax.transform

    def bind_strays(module: Any, _: Any) -> Any:
        return module if device.kind.name == "llvm" else bind_threads(module, device)

    return tvm.transform.Sequential(
        [
            transform.LegalizeOps(),
            transform.FoldConstant(),
            transform.DeadCodeElimination(),
            tvm.transform.module_pass(bind_strays, opt_level=0),
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
