"""Converting a checkpoint's weights, beside copying its files and beside what the disk alone takes, in one run.

The checkpoint has StarCoder's tensors, in bfloat16 and in shards as Hugging Face writes them: those of
starcoderbase-1b with as many layers as make the size asked for, or with `--starcoder` all 15.5 billion weights. It is
filled with random weights, or with `--sparse` it is files of holes, which read as zeros and take no room. The turns
alternate; before each the files leave the page cache, and each ends with its output on the disk (fsync).

    python -P -m benchmarks.convert [--gigabytes 2] [--starcoder] [--sparse] [--scheme q4f16_1] [--rounds 3]
                                    [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.machine import machine, processor_name
from benchmarks.random_checkpoint import sized, starcoder, write_checkpoint
from compile import weights
from compile.schemes import GROUP, Scheme, parse_scheme
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.progress import Silent

STREAM_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--starcoder", action="store_true")
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--scheme", default="q4f16_1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder unless given")
    chosen = parser.parse_args()
    facts = starcoder() if chosen.starcoder else sized(chosen.gigabytes * 1e9)
    scheme = parse_scheme(chosen.scheme)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        source = folder / "checkpoint"
        write_checkpoint(source, facts, "holes" if chosen.sparse else "noise")
        given = folder_bytes(source)
        taken = int(given * bits_per_weight(scheme) / 16)
        before = anonymous_bytes()
        turns: dict[str, Callable[[Path], int]] = {
            "convert": lambda out: convert(source, facts, scheme, out),
            "copy": lambda out: stream(source, out, 1),
            "disk alone": lambda out: stream(source, out, taken / given),
        }
        figures = measure(turns, source, folder, chosen.rounds)
    report = {
        "machine": machine(),
        "settings": {
            "model": f"gpt_bigcode {facts.hidden_size} wide, inner {facts.inner_size}, {facts.layers} layers, bfloat16",
            "scheme": scheme.name,
            "weights": "holes" if chosen.sparse else "random",
            "checkpoint_megabytes": round(given / 1e6, 1),
            "rounds": chosen.rounds,
        },
        "baseline": {
            "copy": "the checkpoint's files read and written",
            "disk alone": f"the checkpoint's files read, {taken / 1e6:.0f} MB written",
        },
        "anonymous_megabytes_before": round(before / 1e6, 1),
        "figures": figures,
    }
    print(f"{processor_name()}, {os.cpu_count()} cores; {report['settings']}")
    print(f"{'':<12}{'s':>10}{'CPU s':>10}{'MB/s read':>12}{'MB/s written':>14}{'peak anonymous MB':>20}")
    for turn, figure in figures.items():
        print("{:<12}{:>10}{:>10}{:>12}{:>14}{:>20}".format(turn, *figure.values()))
    print(json.dumps(report))


def measure(
    turns: dict[str, Callable[[Path], int]], source: Path, folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Medians of each turn, processor time being that of all cores together; of its memory, the most ever seen."""
    given = folder_bytes(source)
    seconds: dict[str, list[float]] = {turn: [] for turn in turns}
    processor: dict[str, list[float]] = {turn: [] for turn in turns}
    memory, taken = dict.fromkeys(turns, 0), dict.fromkeys(turns, 0)
    for _ in range(rounds):
        for turn, run in turns.items():
            forget(source)
            out = folder / "out"
            out.mkdir()
            with peak_memory() as peak:
                begun, used = time.perf_counter(), time.process_time()
                taken[turn] = run(out)
                seconds[turn].append(time.perf_counter() - begun)
                processor[turn].append(time.process_time() - used)
            memory[turn] = max(memory[turn], peak[0])
            shutil.rmtree(out)
    return {
        turn: {
            "seconds": round(statistics.median(times), 2),
            "processor_seconds": round(statistics.median(processor[turn]), 2),
            "megabytes_read_per_second": round(given / 1e6 / statistics.median(times), 1),
            "megabytes_written_per_second": round(taken[turn] / 1e6 / statistics.median(times), 1),
            "peak_anonymous_megabytes": round(memory[turn] / 1e6, 1),
        }
        for turn, times in seconds.items()
    }


def bits_per_weight(scheme: Scheme) -> float:
    width = 8 * np.dtype(scheme.dtype).itemsize
    return scheme.bits + width / GROUP if scheme.quantized else width


def convert(source: Path, facts: Architecture, scheme: Scheme, out: Path) -> int:
    """As a bundle is made, with a folder to resume from. Gives the bytes written."""
    (out / "params").mkdir()
    weights.convert(source, facts, scheme, out / "params", Silent(), out / "work")
    return folder_bytes(out / "params")


def stream(source: Path, out: Path, share: float) -> int:
    """Read the files of `source` from end to end and write a share of each piece. Gives the bytes written.

    A file written is removed once it is on the disk, so that there is room for the next.
    """
    taken = 0
    for path in source.iterdir():
        with path.open("rb") as file, (out / path.name).open("wb") as sink:
            while piece := file.read(STREAM_BYTES):
                sink.write(memoryview(piece)[: int(len(piece) * share)])
            taken += sink.tell()
            sink.flush()
            os.fsync(sink.fileno())
        (out / path.name).unlink()
    return taken


def forget(folder: Path) -> None:
    """Have the files leave the page cache, where the system lets one ask for that."""
    os.sync()
    for path in folder.iterdir() if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def anonymous_bytes() -> int:
    """RssAnon of this process: memory that no file backs. 0 where there is no /proc."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The greatest `anonymous_bytes` seen within, sampled every 10 ms, as the one element of a list."""
    peak, over = [anonymous_bytes()], threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


if __name__ == "__main__":
    main()
