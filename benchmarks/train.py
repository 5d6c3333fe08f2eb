"""Training beside plain `transformers.Trainer`: tokens a second, peak memory, padding, and what FIM costs.

Both train the same GPTBigCode model of random weights, with starcoder's vocabulary, on the same files, by the same
method, in the same arithmetic, with AdamW. The Trainer gets what is best for its speed: files tokenized beforehand,
laid end to end and cut, so that it has no padding, no separation of files and no fill-in-the-middle. Each turn is a
process of its own; the turns alternate, and the first steps of each are left out. Of times the medians count, of memory
the most. Processor time, that of all cores together, says more than the clock where the machine has other work.

    python -P -m benchmarks.train [SOURCE...] [--method lora|full] [--steps 8] [--rounds 3] [--hidden 256] [--layers 4]
                                  [--sequence-length 512] [--batch-size 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, processor_name
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.bases.base import Base, open_base
from train.scratch_settings import ScratchSettings
from train.settings import TrainSettings

WARM_UP = 2
Moment = tuple[float, float]
SIDES = ("ours", "trainer")
LIBRARY = ("asyncio", "email", "http", "json", "unittest", "xml", "logging", "importlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="what to train on; parts of Python's library unless given")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    for name, default in (("steps", 8), ("rounds", 3), ("hidden", 256), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("sequence-length", 512), ("batch-size", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--turn", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    settings = TrainSettings(
        method=chosen.method,
        sequence_length=chosen.sequence_length,
        batch_size=chosen.batch_size,
        gradient_accumulation=1,
        max_steps=chosen.steps + WARM_UP,
        max_epochs=1000.0,
        evaluate_every=10_000,
        evaluate_sequences=1,
        save_every=10_000,
    )
    if chosen.turn:
        print(json.dumps(turn(chosen.turn, chosen.work, settings)))
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        prepare(work, chosen)
        turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(chosen.rounds):
            for side in SIDES:
                command = [sys.executable, "-P", "-m", "benchmarks.train", *sys.argv[1:]]
                done = subprocess.run([*command, "--turn", side, "--work", name], stdout=subprocess.PIPE, check=True)
                turns[side].append(json.loads(done.stdout.splitlines()[-1]))
        figures = {side: summary(found) for side, found in turns.items()}
        step = figures["ours"]["seconds_per_step"]
        report = {
            "machine": machine(),
            "settings": {
                "model": f"gpt_bigcode {chosen.hidden} wide, {chosen.layers} layers, 49,152 tokens, random weights",
                **{key: getattr(settings, key) for key in ("method", "sequence_length", "batch_size", "fim_rate")},
                "arithmetic": arithmetic_name(),
                "steps": chosen.steps,
                "rounds": chosen.rounds,
            },
            "figures": figures,
            "ours_by_trainer": {
                key: round(figures["ours"][key] / figures["trainer"][key], 3)
                for key in ("tokens_per_second", "tokens_per_processor_second", "peak_megabytes")
            },
            "data": data_costs(work, settings, step),
        }
    print(f"{processor_name()}, {os.cpu_count()} cores; {report['settings']}")
    print(f"{'':<10}{'tokens/s':>12}{'tokens/CPU s':>14}{'s a step':>12}{'tokens a step':>15}{'peak MB':>12}")
    for side, figure in figures.items():
        print("{:<10}{:>12}{:>14}{:>12}{:>15}{:>12}".format(side, *figure.values()))
    print(report["data"])
    print(json.dumps(report))


def prepare(work: Path, chosen: argparse.Namespace) -> None:
    """The dataset and the base that both sides train."""
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    from train.data.collect import plan
    from train.data.settings import CollectSettings
    from train.samples.dataset import open_texts
    from train.scratch import train_tokenizer

    library = Path(sysconfig.get_paths()["stdlib"])
    sources = chosen.sources or [str(library / name) for name in LIBRARY]
    execute(plan(sources, CollectSettings(), work / "cache", Silent()), work / "dataset", Silent())
    base = work / "base"
    base.mkdir()
    texts = open_texts(work / "dataset", "train", work / "cache")
    train_tokenizer(texts, ScratchSettings(vocabulary=8192), base)
    config = GPTBigCodeConfig(
        vocab_size=49152,
        n_positions=max(2048, chosen.sequence_length),
        n_embd=chosen.hidden,
        n_layer=chosen.layers,
        n_head=chosen.hidden // 64,
        n_inner=4 * chosen.hidden,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    GPTBigCodeForCausalLM(config).save_pretrained(base)


def turn(side: str, work: Path, settings: TrainSettings) -> dict[str, float]:
    """Train, and tell the medians of the steps' seconds, tokens a step, and the process's peak memory."""
    from train import devices

    base = open_base(str(work / "base"), work / "cache")
    times, tokens = (ours if side == "ours" else trainer)(work, base, settings)
    wall, processor = (
        statistics.median(later[kind] - earlier[kind] for earlier, later in pairwise(times[WARM_UP - 1 :]))
        for kind in (0, 1)
    )
    peak = devices.peak_memory(devices.find("auto")) or 0
    return {
        "seconds_per_step": wall,
        "processor_seconds_per_step": processor,
        "tokens_per_step": tokens,
        "peak_megabytes": peak / 1e6,
    }


def now() -> Moment:
    return time.perf_counter(), time.process_time()


class Steps(Silent):
    """When each step of a training ended."""

    def __init__(self) -> None:
        self.times: list[Moment] = []

    def table(self, values: Mapping[str, str]) -> None:
        self.times.append(now())


def ours(work: Path, base: Base, settings: TrainSettings) -> tuple[list[Moment], float]:
    from train.fine_tune import plan_train

    steps = Steps()
    with tempfile.TemporaryDirectory(dir=work) as name:
        made = execute(plan_train(work / "dataset", base, settings), Path(name) / "out", steps)
    return steps.times, made.facts["tokens_seen"] / made.facts["steps"]


def trainer(work: Path, base: Base, settings: TrainSettings) -> tuple[list[Moment], float]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    from train import devices
    from train.bases import models
    from train.bases.tokenization import open_text_tokenizer
    from train.samples.dataset import open_texts

    tokenizer = open_text_tokenizer(base.folder, base.spec.control_tokens)
    length, ids = settings.sequence_length, list[int]()
    for text in open_texts(work / "dataset", "train", work / "cache"):
        ids += [*tokenizer.encode(text), 0]
    rows = [ids[begin : begin + length] for begin in range(0, len(ids) - length + 1, length)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    device = devices.find("auto")
    dtype = devices.arithmetic(settings.dtype, device)
    if settings.adapts:
        model = models.open_model(base.folder, dtype, device)
        model = models.with_adapter(model, settings, base.facts.lora_targets, base.name)
    else:
        model = models.open_model(base.folder, torch.float32, device)
    times: list[Moment] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            times.append(now())

    arguments = TrainingArguments(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.max_steps,
        learning_rate=settings.peak_learning_rate,
        optim="adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(model, arguments, default_data_collator, data, callbacks=[Watch()]).train()
    return times, settings.batch_size * length


def summary(turns: list[dict[str, float]]) -> dict[str, float]:
    seconds, processor, tokens = (
        statistics.median(found[key] for found in turns)
        for key in ("seconds_per_step", "processor_seconds_per_step", "tokens_per_step")
    )
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_processor_second": round(tokens / processor, 1),
        "seconds_per_step": round(seconds, 4),
        "real_tokens_per_step": round(tokens, 1),
        "peak_megabytes": round(max(found["peak_megabytes"] for found in turns), 1),
    }


def data_costs(work: Path, settings: TrainSettings, step: float, batches: int = 100) -> dict[str, float]:
    """The share of real tokens in batches, and of a step's time that drawing them and FIM take."""
    from toolchain.contracts import fim
    from train.bases.tokenization import open_text_tokenizer
    from train.samples.dataset import open_texts
    from train.samples.fim import Sampler
    from train.samples.stream import BatchStream

    base = open_base(str(work / "base"), work / "cache")
    texts = open_texts(work / "dataset", "train", work / "cache")
    tokenizer = open_text_tokenizer(base.folder, base.spec.control_tokens)
    ids = fim.resolve(base.spec, tokenizer.tokenizer.token_to_id)
    seconds, real = {}, 0.0
    for rate in (0.0, settings.fim_rate):
        sampler = Sampler(tokenizer, ids, base.spec.orders, settings.sequence_length, rate, settings.spm_rate, 0)
        stream = BatchStream(texts, sampler, settings.batch_size)
        stream.next()
        begun = time.perf_counter()
        drawn = [stream.next() for _ in range(batches)]
        seconds[rate] = (time.perf_counter() - begun) / batches
        real = sum(batch.tokens for batch in drawn) / sum(batch.ids.numel() for batch in drawn)
    with_fim = seconds[settings.fim_rate]
    return {
        "real_tokens_share": round(real, 4),
        "drawing_share_of_step": round(with_fim / step, 4),
        "fim_share_of_step": round((with_fim - seconds[0.0]) / step, 4),
    }


def arithmetic_name() -> str:
    from train import devices

    return str(devices.arithmetic("auto", devices.find("auto"))).removeprefix("torch.")


if __name__ == "__main__":
    main()
