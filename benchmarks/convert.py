"""Converting a checkpoint's weights, beside copying its files and beside what the disk alone takes, in one run.

The checkpoint has StarCoder's tensors, in bfloat16 and in shards as Hugging Face writes them: those of
starcoderbase-1b with as many layers as make the size asked for, or with `--starcoder` all 15.5 billion weights. It is
filled with random weights, or with `--sparse` it is files of holes, which read as zeros and take no room. The turns
alternate; before each the files leave the page cache, and each ends with its output on the disk (fsync).

    python -P -m benchmarks.convert [--gigabytes 2] [--starcoder] [--sparse] [--scheme q4f16_1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.decode import processor_name
from compile import weights
from compile.architectures import FAMILIES
from compile.schemes import GROUP, Scheme, parse_scheme
from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.progress import Silent

ONE_BILLION = {"n_embd": 2048, "n_layer": 24, "n_head": 16, "n_inner": 8192}
STARCODER = {"n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576}
COMMON = {"model_type": "gpt_bigcode", "vocab_size": 49152, "n_positions": 8192, "multi_query": True}
SHARD_BYTES = 5_000_000_000
PIECE_BYTES = 64 << 20
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
        write_checkpoint(source, facts, chosen.sparse)
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
        "machine": {"processor": processor_name(), "cores": os.cpu_count(), "python": platform.python_version()},
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


def starcoder() -> Architecture:
    return architectures.from_config({**COMMON, **STARCODER})


def sized(wanted: float) -> Architecture:
    """starcoderbase-1b with as many layers as come closest to `wanted` bytes in bfloat16."""
    one, two = (architectures.from_config({**COMMON, **ONE_BILLION, "n_layer": n}).parameters * 2 for n in (1, 2))
    layers = max(1, 1 + round((wanted - one) / (two - one)))
    return architectures.from_config({**COMMON, **ONE_BILLION, "n_layer": layers})


def write_checkpoint(folder: Path, facts: Architecture, sparse: bool) -> None:
    """The model's tensors in safetensors shards with their index."""
    shapes = dict(FAMILIES[facts.family].weight_shapes(facts))
    del shapes["lm_head.weight"]  # tied
    folder.mkdir()
    shards: list[dict[str, int]] = [{}]
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if sum(shards[-1].values()) + size > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = size
    where: dict[str, str] = {}
    for number, sizes in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(sizes, file)
        header, offset = {}, 0
        for name, size in sizes.items():
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            if sparse:
                stream.truncate(stream.tell() + offset)
            else:
                for piece in random_weights(offset, number):
                    stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    index = {"metadata": {"total_size": sum(map(sum, (s.values() for s in shards)))}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def random_weights(nbytes: int, seed: int) -> Iterator[memoryview]:
    """bfloat16 numbers of 2^-10 to 2^-2 and either sign, as bytes."""
    draw = np.random.default_rng(seed)
    for begin in range(0, nbytes, PIECE_BYTES):
        bits = draw.integers(0, 1 << 16, min(PIECE_BYTES, nbytes - begin) // 2, np.uint16)
        exponents = ((bits >> 7) & 7) + np.uint16(117)
        yield ((bits & 0x807F) | (exponents << 7)).data.cast("B")


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
