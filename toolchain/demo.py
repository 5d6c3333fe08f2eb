"""The main job: `up`, then real requests to a real server, beside what the file really says.

A base that has to be grown is grown on Python's standard library, so that what tuning adds is what the sources have.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import StageError
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.progress import Progress
from toolchain.editors import telling
from toolchain.pipeline import report, up
from toolchain.workspace import current_bundle

OWN_CODE = [str(Path(__file__).parents[1] / package) for package in ("toolchain", "train", "compile", "serve")]
CURSORS = 4
WINDOW = 4000
START_SECONDS = 120


def run_demo(
    sources: Sequence[str], root: Path, tables: Mapping[str, Mapping[str, Any]], progress: Progress
) -> dict[str, Any]:
    """Bring the bundle up to date, serve it, complete at places in held-out files, and give figures.

    Without sources, Fimble's own code is taken.
    """
    begun = time.monotonic()
    steps = up(list(sources) or OWN_CODE, root, tables, {}, progress, grow_on=[sysconfig.get_path("stdlib")])
    bundle = current_bundle(root)
    spec = FimSpec(**steps[-1].manifest.facts["fim"])
    with serving(bundle) as url:
        completions = [_complete(url, place, spec) for place in held_out_places(steps[0].folder)]
    return {
        "workspace": str(root.resolve()),
        "bundle": str(bundle),
        "stages": report(steps),
        "seconds": round(time.monotonic() - begun, 1),
        "held_out": {step.stage: facts for step in steps if (facts := step.manifest.facts.get("held_out"))},
        "completions": completions,
        "vscode": telling.vscode_settings(telling.served("http://127.0.0.1:8000", root)),
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    shown = ["", "completions as llm-vscode asks for them, in files that were not trained on:"]
    for done in report["completions"]:
        shown += ["", f"  {done['place']} ({done['milliseconds']} ms)"]
        shown += [f"    file says:  {done['before']}|{done['truth']}"]
        shown += [f"    completion: {done['before']}|{done['completion']}"]
    shown += ["", "stage     state      seconds"]
    for stage in report["stages"]:
        shown.append(f"{stage['stage']:<9} {'made' if stage['made'] else 'current':<9} {stage['seconds']:8.1f}")
    shown.append(f"{'total':<19} {report['seconds']:8.1f}")
    for stage, held_out in report["held_out"].items():
        first, last = held_out["start"], held_out["end"]
        shown.append(
            f"held-out FIM loss of {stage}: {first['loss']:.3f} -> {last['loss']:.3f}, "
            f"bits per byte {first['bits_per_byte']:.3f} -> {last['bits_per_byte']:.3f}"
        )
    return [
        *shown,
        "",
        f"To use it, run: fimble serve {report['workspace']}",
        *telling.short_lines(report["vscode"], Path(report["workspace"])),
    ]


def held_out_places(dataset: Path) -> list[dict[str, str]]:
    """Places in held-out files: before the last part of a line with something to say, the rest of the file after it."""
    from train.samples.dataset import open_files

    with tempfile.TemporaryDirectory() as cache:
        places = (_place_in(row["path"], row["content"]) for row in open_files(dataset, "heldout", Path(cache)))
        return list(itertools.islice(filter(None, places), CURSORS))


def _place_in(path: str, content: str) -> dict[str, str] | None:
    whole = content.splitlines(keepends=True)
    candidates = [n for n, line in enumerate(whole) if n > 8 and re.match(r"\s+(return|if|for|self\.)\b", line)]
    if not candidates:
        return None
    at = candidates[len(candidates) // 2]
    line = whole[at].rstrip("\n")
    cut = len(line) - len(line.lstrip()) + len(line.split()[0])
    return {
        "path": f"{path}:{at + 1}",
        "prefix": "".join(whole[:at]) + line[:cut],
        "middle": line[cut:],
        "suffix": "\n" + "".join(whole[at + 1 :]),
    }


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """A `fimble serve` in a process of its own on a free port, stopped at the end; gives its address."""
    # -P: the working folder is the user's, and no place to import from.
    command = [sys.executable, "-P", "-m", "toolchain.cli", "serve", str(bundle), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield _address(process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _address(process: subprocess.Popen[str]) -> str:
    """The address in the line that a server says when it is ready. Raises StageError when it ends or stays silent."""
    assert process.stdout is not None
    patience = threading.Timer(START_SECONDS, process.kill)
    patience.start()
    said = json.loads(process.stdout.readline() or "{}")
    patience.cancel()
    if "url" not in said:
        raise StageError(f"the server did not start: {said.get('error', 'it said nothing')}", said.get("next_step", ""))
    return str(said["url"])


def _complete(url: str, place: Mapping[str, str], spec: FimSpec) -> dict[str, Any]:
    """One request in the form of llm-vscode 0.0.38, beside the truth."""
    prompt = f"{spec.prefix}{place['prefix'][-WINDOW:]}{spec.suffix}{place['suffix'][:WINDOW]}{spec.middle}"
    body = {
        "inputs": prompt,
        "parameters": {
            "max_new_tokens": 24,
            "temperature": 0.2,
            "do_sample": True,
            "top_p": 0.95,
            "stop": [spec.end_of_text, "\n"],
        },
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    begun = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as reply:
        text = json.load(reply)[0]["generated_text"]
    return {
        "place": place["path"],
        "before": place["prefix"].splitlines()[-1],
        "truth": place["middle"],
        "completion": text,
        "milliseconds": round((time.monotonic() - begun) * 1000),
    }
