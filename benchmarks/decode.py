"""Decoding and prefill on the CPU: our q4f16_1 library beside transformers' bfloat16 and float32, in one run.

The model has the geometry of starcoderbase-1b (or `--layers` of it) and random weights: speed does not depend on
their values. The engines take turns, so a drift of the machine's speed meets all alike; medians are given.

    python -P -m benchmarks.decode [--layers 24] [--context 512] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, processor_name
from benchmarks.random_checkpoint import ONE_BILLION

TOKENS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engines = open_engines(Path(folder), chosen.layers)
        measured = measure(engines, chosen.context, chosen.rounds)
    report = {
        "machine": machine(),
        "settings": {"model": "gpt_bigcode 2048 wide, inner 8192, 16 heads, vocabulary 49152", **vars(chosen)},
        "baseline": "transformers, sdpa attention, KV cache",
        "tokens_per_second": measured,
    }
    print(f"{processor_name()}, {os.cpu_count()} cores; {chosen.layers} layers, context {chosen.context}")
    print(f"{'engine':<28}{'prefill tokens/s':>18}{'decode tokens/s':>18}")
    for name, figures in measured.items():
        print(f"{name:<28}{figures['prefill']:>18.1f}{figures['decode']:>18.1f}")
    print(json.dumps(report))


def open_engines(folder: Path, layers: int) -> dict[str, Any]:
    """Our runner and transformers' model, both of the same random checkpoint."""
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    from compile import library, weights
    from compile.schemes import parse_scheme
    from serve.engine.loading import load
    from toolchain.contracts import architectures
    from toolchain.contracts.fim import STARCODER
    from toolchain.contracts.progress import Silent
    from toolchain.contracts.targets import parse_target

    torch.manual_seed(0)
    shape = {key: value for key, value in ONE_BILLION.items() if key != "model_type"}
    config = GPTBigCodeConfig(**shape | {"n_layer": layers}, dtype="bfloat16")
    model = GPTBigCodeForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(folder / "checkpoint")
    facts, scheme = architectures.read(folder / "checkpoint"), parse_scheme("q4f16_1")
    (folder / "params").mkdir()
    weights.convert(folder / "checkpoint", facts, scheme, folder / "params", Silent())
    library.build(facts, scheme, STARCODER, parse_target("cpu"), folder / "model.a")
    ours = load(folder / "model.a", folder / "params", 2048)
    wide = GPTBigCodeForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()
    return {
        "fimble q4f16_1": lambda count: run_ours(ours, count),
        "transformers bfloat16": lambda count: run_transformers(model, count),
        "transformers float32": lambda count: run_transformers(wide, count),
    }


def run_ours(runner: Any, count: int) -> tuple[float, float]:
    """Seconds for a prompt of `count` tokens, and for each token after it."""
    ids = [n % 40000 for n in range(count)]
    begun = time.perf_counter()
    runner.forward(ids, 0)
    between = time.perf_counter()
    for at in range(count, count + TOKENS):
        runner.forward([7], at)
    return between - begun, (time.perf_counter() - between) / TOKENS


def run_transformers(model: Any, count: int) -> tuple[float, float]:
    import torch

    with torch.inference_mode():
        ids = torch.arange(count)[None] % 40000
        begun = time.perf_counter()
        output = model(ids, use_cache=True, logits_to_keep=1)
        between = time.perf_counter()
        for _ in range(TOKENS):
            output = model(torch.tensor([[7]]), past_key_values=output.past_key_values, use_cache=True)
    return between - begun, (time.perf_counter() - between) / TOKENS


def measure(
    engines: dict[str, Callable[[int], tuple[float, float]]], context: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median tokens a second of each engine; the first round warms up and does not count."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            taken = engine(context)
            if number:
                seconds[name].append(taken)
    return {
        name: {
            "prefill": round(context / statistics.median(prefill for prefill, _ in taken), 2),
            "decode": round(1 / statistics.median(decode for _, decode in taken), 2),
        }
        for name, taken in seconds.items()
    }


if __name__ == "__main__":
    main()
