"""Decoding and prefill on a GPU, beside the limit that its memory sets: a token cannot come faster than its weights.

The model has the geometry of starcoderbase-1b or, with `--starcoder`, of StarCoder's 15.5 billion weights, and random
weights. The limit is what a kernel that only copies moves each second, measured in the same run, divided by the bytes
of weights that a token reads. With `--target cpu` there is no limit to print, and it shows that the script works.

    python -P -m benchmarks.gpu --target cuda [--arch sm_80,sm_90] [--starcoder] [--layers N] [--scheme q4f16_1]
                                [--context 512] [--tokens 64] [--rounds 5] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.random_checkpoint import ONE_BILLION, STARCODER, write_checkpoint
from compile import devices, library, weights
from compile.schemes import parse_scheme
from serve.engine.loading import load
from toolchain.contracts import architectures, fim, tensor_cache
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.progress import Silent
from toolchain.contracts.targets import Target, parse_target

COPIED_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--arch", default="sm_80,sm_86,sm_89,sm_90", help="of CUDA, separated by commas")
    parser.add_argument("--starcoder", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--scheme", default="q4f16_1")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help="where to write; the system's temporary folder unless given")
    chosen = parser.parse_args()
    shape = STARCODER if chosen.starcoder else ONE_BILLION
    facts = architectures.from_config(shape | ({"n_layer": chosen.layers} if chosen.layers else {}))
    target = parse_target(chosen.target)
    if target.device == "cuda":
        target = replace(target, archs=tuple(chosen.arch.split(",")))
    with tempfile.TemporaryDirectory(dir=chosen.work) as name:
        runner, read_bytes = open_runner(Path(name), facts, target, chosen.scheme)
        figures = measure(runner, chosen.context, chosen.tokens, chosen.rounds)
    settings = {name: value for name, value in vars(chosen).items() if name != "work"}
    limit = copied_bytes_per_second(target) if target.device != "cpu" else None
    report = {
        "machine": machine(),
        "settings": {"model": f"gpt_bigcode, {facts.parameters / 1e9:.1f}B weights", **settings},
        "baseline": "memory bandwidth of a copying kernel over the bytes of weights that a token reads",
        "tokens_per_second": figures,
        "weights_read_per_token_megabytes": round(read_bytes / 1e6, 1),
        "bandwidth_gigabytes_per_second": limit and round(limit / 1e9, 1),
        "decode_limit_tokens_per_second": limit and round(limit / read_bytes, 1),
    }
    print(f"{chosen.target}, {report['settings']['model']}, {chosen.scheme}, context {chosen.context}")
    print(f"prefill {figures['prefill']:.1f} tokens/s, decode {figures['decode']:.1f} tokens/s")
    if limit:
        print(f"memory moves {limit / 1e9:.1f} GB/s, so no more than {limit / read_bytes:.1f} tokens/s can be decoded")
    print(json.dumps(report))


def open_runner(folder: Path, facts: Architecture, target: Target, name: str) -> tuple[Any, int]:
    """A runner with random weights, and the bytes of weights that one token reads: all but the embedding tables."""
    scheme, params = parse_scheme(name), folder / "params"
    write_checkpoint(folder / "checkpoint", facts, "noise")
    params.mkdir()
    weights.convert(folder / "checkpoint", facts, scheme, params, Silent())
    out = folder / f"library.{target.extension}"
    library.build(facts, scheme, fim.STARCODER, target, out)
    tables = ("transformer.wte.", "transformer.wpe.")
    stored = (place for tensor, place in tensor_cache.read(params).items() if not tensor.startswith(tables))
    read = sum(int(np.prod(place.shape)) * tensor_cache.ITEM_BYTES[place.dtype] for place in stored)
    return load(out, params, 2048), read


def measure(runner: Any, context: int, tokens: int, rounds: int) -> dict[str, float]:
    """Median tokens a second; the first round warms up and does not count."""
    ids = [number % 40000 for number in range(context)]
    prefill, decode = [], []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        runner.forward(ids, 0)
        between = time.perf_counter()
        for at in range(context, context + tokens):
            runner.forward([7], at)
        prefill.append(between - begun)
        decode.append((time.perf_counter() - between) / tokens)
    return {
        "prefill": round(context / statistics.median(prefill[1:]), 2),
        "decode": round(1 / statistics.median(decode[1:]), 2),
    }


def copied_bytes_per_second(target: Target) -> float:
    """Bytes read and written a second by a kernel that does nothing else."""
    import tvm
    from tvm.script import tirx as T

    count, threads = COPIED_BYTES // 16, 256

    @T.prim_func(s_tir=True)
    def copy(source: T.handle, out: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "global_symbol": "copy"})
        S = T.match_buffer(source, (count * 4,), "uint32")
        O = T.match_buffer(out, (count * 4,), "uint32")
        for block in T.thread_binding(count // threads, thread="blockIdx.x"):
            for thread in T.thread_binding(threads, thread="threadIdx.x"):
                at: T.let = (block * threads + thread) * 4
                O[T.ramp(at, 1, 4)] = S[T.ramp(at, 1, 4)]

    kernel = tvm.compile(copy, target=devices.device(target))
    device = tvm.device(target.device, 0)
    given, taken = (tvm.runtime.empty((count * 4,), "uint32", device) for _ in range(2))
    times = []
    for _ in range(12):
        device.sync()
        begun = time.perf_counter()
        kernel["copy"](given, taken)
        device.sync()
        times.append(time.perf_counter() - begun)
    return 2 * COPIED_BYTES / statistics.median(times[2:])


if __name__ == "__main__":
    main()
