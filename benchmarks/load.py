"""Many editors at one server on this machine, who type at the same time; beside one of them alone, in the same run.

The server is `fimble serve` in a process of its own, over a bundle with a small random model, or the one that is given.
Two of five editors never take a request back, as llm-vscode 0.0.38; two read a stream, and one a whole answer, and drop
the connection at the next keystroke. Each asks at every keystroke and stops now and then to look: the request of that
last keystroke is the one that has to be answered. At the end the server is sent SIGTERM while all still type: what they
asked before must be answered or refused. The editors take processor time of the same machine.

    python -P -m benchmarks.load [--clients 50] [--seconds 60] [--alone-seconds 10] [--queue-limit 64] [--bundle DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import machine
from benchmarks.small_bundle import CODE, small_bundle
from benchmarks.typists import KINDS, Asked, Kind, Typist

MIX: tuple[Kind, ...] = (KINDS[0], KINDS[1], KINDS[0], KINDS[1], KINDS[2])
SAMPLE_SECONDS = 1.0
EXIT_SECONDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--alone-seconds", type=float, default=10)
    parser.add_argument("--queue-limit", type=int, default=64)
    parser.add_argument("--bundle", type=Path, help="a bundle of a StarCoder; a small random one unless given")
    chosen = parser.parse_args()
    busy = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder:
        bundle = chosen.bundle or small_bundle(Path(folder))
        figures = measure(bundle, chosen.clients, chosen.seconds, chosen.alone_seconds, chosen.queue_limit)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    here = machine() | {"load_average_before": busy}
    report = {"machine": here, "settings": settings, "baseline": "one editor alone", "figures": figures}
    print(f"{here['processor']}, {here['cores']} cores, load average {busy} before; {settings}")
    print(f"{'':<34}{'alone':>14}{'all':>14}")
    for name, value in figures["all"].items():
        print(f"{name:<34}{figures['alone'][name]!s:>14}{value!s:>14}")
    print("\n".join(f"{name}: {figures[name]}" for name in ("memory_megabytes", "server", "stopped")))
    print(json.dumps(report))
    sys.exit(1 if figures["all"]["errors"] or figures["alone"]["errors"] or figures["stopped"]["errors"] else 0)


def measure(bundle: Path, clients: int, seconds: float, alone_seconds: float, queue_limit: int) -> dict[str, Any]:
    """The figures of one run: one editor alone, then all, then SIGTERM while they type on."""
    command = [sys.executable, "-P", "-m", "toolchain.cli", "serve", str(bundle), "--port", "0", "--json"]
    command += ["--log-format", "none", "--queue-limit", str(queue_limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            return asyncio.run(_measure(server, url, clients, seconds, alone_seconds))
        finally:
            server.kill()


async def _measure(
    server: subprocess.Popen[str], url: str, clients: int, seconds: float, alone_seconds: float
) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        alone = [Typist(0, MIX[0], CODE[0], url)]
        await _type(alone, alone_seconds)
        every = [Typist(n, MIX[n % len(MIX)], CODE[n % len(CODE)], url) for n in range(1, clients + 1)]
        memory: list[float] = []
        sampling = asyncio.create_task(_sample_memory(client, memory))
        await _type(every, seconds)
        sampling.cancel()
        counted = await _counted(client)
        last = [Typist(n, MIX[n % len(MIX)], CODE[n % len(CODE)], url) for n in range(1, clients + 1)]
        typing = asyncio.create_task(_type(last, 2))
        await asyncio.sleep(1)
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.wait, EXIT_SECONDS)
        ended = time.monotonic() - begun
        await typing
    stopped = [asked for typist in last for asked in typist.asked]
    broken = [asked for asked in stopped if asked.outcome in ("error", "stopped", "open") and asked.at < begun]
    quarter = len(memory) // 4
    return {
        "alone": _summary(alone, alone_seconds),
        "all": _summary(every, seconds),
        "memory_megabytes": {
            "start": round(memory[0] / 1e6, 1),
            "after_a_quarter": round(memory[quarter] / 1e6, 1),
            "most": round(max(memory) / 1e6, 1),
            "end": round(memory[-1] / 1e6, 1),
        },
        "server": counted,
        "stopped": {
            "exit_code": code,
            "seconds": round(ended, 1),
            "outcomes": dict(Counter(asked.outcome for asked in stopped)),
            "errors": len(broken) + (code != 0),
            "what_went_wrong": dict(Counter(asked.told for asked in broken)),
        },
    }


async def _type(typists: Sequence[Typist], seconds: float) -> None:
    end = time.monotonic() + seconds
    await asyncio.gather(*(typist.type(lambda: time.monotonic() >= end) for typist in typists))


async def _sample_memory(client: httpx.AsyncClient, found: list[float]) -> None:
    while True:
        found.append((await _metrics(client))["process_resident_memory_bytes"])
        await asyncio.sleep(SAMPLE_SECONDS)


async def _counted(client: httpx.AsyncClient) -> dict[str, float]:
    names = ("request_superseded", "generation_tokens", "prefix_cache_hits", "prefix_cache_queries")
    found = await _metrics(client)
    return {name: found[f"fimble_{name}_total"] for name in names}


async def _metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def _summary(typists: Sequence[Typist], seconds: float) -> dict[str, Any]:
    """What came of all requests; of the newest, how many were answered while their users looked, and when."""
    asked = [one for typist in typists for one in typist.asked]
    newest = [one for one in asked if one.newest]
    answered = sorted(one.seconds for one in newest if one.outcome == "answered" and one.in_time)
    return {
        "requests": len(asked),
        "requests_per_second": round(len(asked) / seconds, 1),
        **{outcome: sum(one.outcome == outcome for one in asked) for outcome in ("answered", "left", "refused")},
        "errors": sum(one.outcome in ("error", "stopped", "open") for one in asked),
        "most_open_of_one_editor": max(typist.most_open for typist in typists),
        "newest": len(newest),
        "newest_answered_percent": _percent(answered, newest),
        "newest_within_1_s_percent": _percent([taken for taken in answered if taken <= 1], newest),
        **{f"newest_ms_p{part}": _percentile(answered, part) for part in (50, 90, 99)},
        "refusals": dict(Counter(one.told for one in asked if one.outcome == "refused")),
        "what_went_wrong": dict(Counter(one.told for one in asked if one.outcome in ("error", "stopped"))),
    }


def _percent(part: Sequence[object], whole: Sequence[Asked]) -> float:
    return round(100 * len(part) / max(len(whole), 1), 1)


def _percentile(values: Sequence[float], part: int) -> float | None:
    """In milliseconds."""
    if len(values) < 2:
        return round(1000 * values[0], 1) if values else None
    return round(1000 * statistics.quantiles(values, n=100, method="inclusive")[part - 1], 1)


if __name__ == "__main__":
    main()
