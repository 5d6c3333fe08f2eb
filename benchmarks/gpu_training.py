"""A preset's training on a GPU for some steps, over random weights of its base's shape, beside what `plan` says.

Memory does not depend on values. What is trained on is Python's standard library, collected as any repository is,
with a byte-level BPE tokenizer of the right size made from it. Memory is measured by PyTorch from where the steps
begin, and apart from that while the base is loaded; it is compared with the plan less the device's context, which
PyTorch does not count. On the processor the same code runs with `--shape tiny`; what its process takes is told there
and not judged.

    python -P -m benchmarks.gpu_training --preset NAME [--method qlora] [--steps 50] [--device cuda|mps|cpu]
                                         [--shape full|tiny] [--work DIR]
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_checkpoint import COMMON, write_checkpoint
from toolchain.contracts import architectures, extras
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import MissingExtra
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.planning import memory, models, plan, published
from train import presets
from train.bases.base import copy_tokenizer, open_base
from train.data.collect import plan as plan_collect
from train.data.settings import CollectSettings
from train.devices import arithmetic, peak_memory
from train.fine_tune import plan_train
from train.running import RunSettings
from train.samples.dataset import open_texts
from train.scratch import train_tokenizer
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

TOLERANCE = 0.15
"""How far measured memory may be from the plan's, either way."""
WARM_UP = 2
SPARE_BYTES = 2_000_000_000
"""For the dataset, the states of the run and what is written at the end."""
TINY = COMMON | {"vocab_size": 2048, "n_positions": 512, "n_embd": 128, "n_layer": 2, "n_head": 2, "n_inner": 512}
TINY_SETTINGS: dict[str, Any] = {
    **{"sequence_length": 128, "batch_size": 4, "gradient_accumulation": 1, "evaluate_sequences": 4},
    **{"learning_rate": 5e-3, "warmup_steps": 4, "dtype": "auto"},
}
TINY_LIBRARY = ("json", "email")


@dataclass(frozen=True)
class Case:
    """What is trained: the preset's name, the shape of its base and its settings."""

    preset: str
    model: Architecture
    settings: TrainSettings
    device: torch.device

    @property
    def number(self) -> int:
        """Bytes of a number in arithmetic."""
        return arithmetic(self.settings.dtype, self.device).itemsize

    @property
    def planned(self) -> list[memory.Term]:
        return memory.terms(self.model, self.settings, 1, on_gpu=self.device.type != "cpu", number=self.number)


class Watch(Silent):
    """When each step ended, and the most memory until the steps began."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []
        self.attention = ""
        self.before = self.loading = 0

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        if title == "Training":
            self.loading = peak_memory(self.device) or 0
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)

    def table(self, values: Mapping[str, str]) -> None:
        self.times.append(time.perf_counter())
        print(f"step {len(self.times)}: {', '.join(' '.join(pair) for pair in values.items())}", file=sys.stderr)

    def say(self, line: str) -> None:
        if line.startswith("attention: "):  # the last word before the base is loaded
            self.attention, self.before = line.removeprefix("attention: "), peak_memory(self.device) or 0
        print(line, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True, choices=presets.names())
    parser.add_argument("--method", choices=("lora", "qlora", "full"), help="in place of the preset's")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=("full", "tiny"), default="full")
    parser.add_argument("--work", type=Path, help="where to write; the system's temporary folder unless given")
    chosen = parser.parse_args()
    case = case_of(chosen.preset, chosen.method, chosen.steps, chosen.device, chosen.shape)
    with tempfile.TemporaryDirectory(dir=chosen.work) as name:
        folder = chosen.work or Path(name)
        why = reason_against(case, folder)
        report = {"status": "skipped", "why": why} if why else check(case, folder)
    print(json.dumps(report))


def case_of(preset: str, method: str | None, steps: int, device: str, shape: str) -> Case:
    """The preset's own values, but for the number of steps and what is measured between them."""
    named = presets.load(preset)
    values = {**named.train, "max_steps": steps, "evaluate_every": steps, "evaluate_sequences": 8, "save_every": steps}
    tiny = TINY_SETTINGS | {"warmup_steps": min(steps, TINY_SETTINGS["warmup_steps"])}
    settings = TrainSettings(**values | (tiny if shape == "tiny" else {}))
    model = architectures.from_config(TINY) if shape == "tiny" else models.read(named.base)
    return Case(preset, model, settings.with_method(method or settings.method), torch.device(device))


def reason_against(case: Case, folder: Path) -> str | None:
    """Why this cannot be run here, before anything is done."""
    device = case.device
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "PyTorch finds no MPS device"
    if case.settings.method == "qlora":
        try:
            extras.need("bitsandbytes", "accelerate")
        except MissingExtra as error:
            return f"{error.message}: {error.next_step}"
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        if case.settings.dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return f"{found.name} has no instructions for bfloat16, which the preset asks for"
        if memory.total(case.planned) > plan.USABLE * found.total_memory:
            needed = memory.total(case.planned) / 1e9
            return f"it is planned at {needed:.1f} GB, and {found.name} has {found.total_memory / 1e9:.1f} GB"
    return lacking_disk(2 * case.model.parameters + SPARE_BYTES, folder)


def lacking_disk(needed: float, folder: Path) -> str | None:
    """What to say where fewer bytes than `needed` are free in `folder`."""
    free = shutil.disk_usage(folder).free
    told = f"it needs {needed / 1e9:.0f} GB of disk, and {folder} has {free / 1e9:.1f} GB free"
    return f"{told}: name another with --work" if needed > free else None


def prepare(work: Path, tiny: bool) -> tuple[Path, Path]:
    """The dataset in `work`, and the folder of its tokenizer; what is there already is left as it is."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [library / name for name in TINY_LIBRARY] if tiny else [library]
    dataset, tokenizer = work / "dataset", work / "tokenizer"
    execute(
        plan_collect([str(path) for path in sources], CollectSettings(), work / "cache", Silent()), dataset, Silent()
    )
    if not tokenizer.exists():
        partial = Path(tempfile.mkdtemp(dir=work))
        texts = open_texts(dataset, "train", work / "cache")
        vocabulary = (TINY if tiny else COMMON)["vocab_size"]
        train_tokenizer(texts, ScratchSettings(vocabulary=vocabulary), partial)
        partial.rename(tokenizer)
    return dataset, tokenizer


def check(case: Case, work: Path) -> dict[str, Any]:
    """Train, and say what became of loss, speed and memory."""
    dataset, tokenizer = prepare(work, case.model.vocab_size == TINY["vocab_size"])
    for library in ("bitsandbytes", "peft", "transformers.models.gpt_bigcode.modeling_gpt_bigcode"):
        importlib.import_module(library)  # so that no library counts as the model's memory
    watch, running = Watch(case.device), RunSettings(device=case.device.type)
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        write_checkpoint(folder / "base", case.model, "initial")
        copy_tokenizer(tokenizer, folder / "base")
        base = open_base(str(folder / "base"), folder / "cache")
        facts = execute(plan_train(dataset, base, case.settings, running), folder / "out", watch).facts
    seconds = statistics.median(later - earlier for earlier, later in pairwise(watch.times[WARM_UP - 1 :]))
    start, end = (facts["held_out"][moment]["loss"] for moment in ("start", "end"))
    figures = {
        "model": f"gpt_bigcode, {case.model.parameters:,} random weights",
        "settings": {key: getattr(case.settings, key) for key in ("method", "batch_size", "gradient_accumulation")}
        | {key: getattr(case.settings, key) for key in ("sequence_length", "lora_rank", "max_steps", "dtype")},
        "attention": watch.attention,
        "held_out_loss": {"start": start, "end": end},
        "seconds_per_step": round(seconds, 4),
        "tokens_per_second": round(facts["tokens_seen"] / facts["steps"] / seconds, 1),
        "memory": memory_figures(case, watch),
    }
    return {**verdict(case, start, end, figures["memory"]), **figures}


def memory_figures(case: Case, watch: Watch) -> dict[str, Any]:
    """Gigabytes: planned term by term, measured, and measured by planned."""
    peak, on_cuda = peak_memory(case.device) or 0, case.device.type == "cuda"
    measured = peak if on_cuda else peak - watch.before
    planned = memory.total(case.planned) - memory.LIBRARIES
    run = published.RUNS.get(case.preset)
    return {
        "planned": _gb(planned),
        "planned_terms": {term.name: _gb(term.bytes) for term in case.planned},
        "measured": _gb(measured),
        "measured_of": "the steps, by PyTorch's allocator" if on_cuda else "the process, above what it held before",
        "while_loading": _gb(watch.loading if on_cuda else watch.loading - watch.before),
        "reserved": _gb(torch.cuda.max_memory_reserved(case.device)) if on_cuda else None,
        "measured_by_planned": round(measured / planned, 3),
        "published": run and run.gigabytes[1],
    }


def verdict(case: Case, start: float, end: float, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Whether it went as it should. A training that ends within its warm-up need not have learnt anything."""
    wrong = []
    if not math.isfinite(end):
        wrong.append(f"the held-out loss is {end}")
    if case.settings.max_steps > case.settings.warmup_steps and not end < start:
        wrong.append(f"the held-out loss did not go down from {start:.3f}")
    ratio = taken["measured_by_planned"]
    if case.device.type == "cuda" and abs(ratio - 1) > TOLERANCE:
        wrong.append(f"memory is {ratio:.2f} of the plan's, and {1 - TOLERANCE:.2f} to {1 + TOLERANCE:.2f} was allowed")
    return {"status": "failed" if wrong else "passed", "why": "; ".join(wrong) or None}


def _gb(count: float) -> float:
    return round(count / 1e9, 3)


if __name__ == "__main__":
    main()
