"""The main job, shown: `up`, then real requests to a real server, beside what the file really says."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import StageError
from toolchain.contracts.progress import Progress
from toolchain.editor import vscode_settings
from toolchain.pipeline import current_bundle, up

CURSORS = 4
WINDOW = 4000
START_SECONDS = 120


def run_demo(
    sources: Sequence[str], root: Path, tables: Mapping[str, Mapping[str, Any]], progress: Progress
) -> dict[str, Any]:
    """Bring the bundle up to date, serve it, complete at places in held-out files, and give figures.

    Without sources the running interpreter's standard library is taken.
    """
    from serve.bundle import open_bundle

    begun = time.monotonic()
    steps = up(list(sources) or [sysconfig.get_path("stdlib")], root, tables, {}, progress)
    made = [step.stage for step in steps if step.made]
    progress.say(f"made: {', '.join(made)}" if made else "every stage is current")
    bundle = open_bundle(current_bundle(root))
    with serving(bundle.folder) as url:
        print(f"\nserver at {url}; completions as llm-vscode asks for them, in files that were not trained on:")
        shown = [_complete(url, place, bundle.spec) for place in held_out_places(steps[0].folder)]
    print("\nstage     state      seconds")
    for step in steps:
        print(f"{step.stage:<9} {'made' if step.made else 'current':<9} {step.seconds:8.1f}")
    print(f"{'total':<19} {time.monotonic() - begun:8.1f}")
    for step in steps:
        if held_out := step.manifest.facts.get("held_out"):
            first, last = held_out["start"], held_out["end"]
            print(
                f"held-out FIM loss of {step.stage}: {first['loss']:.3f} -> {last['loss']:.3f}, "
                f"bits per byte {first['bits_per_byte']:.3f} -> {last['bits_per_byte']:.3f}"
            )
    tokenizer = root.absolute() / "current" / "params" / "tokenizer.json"
    wanted = vscode_settings("http://127.0.0.1:8000", tokenizer, bundle.spec, bundle.context_size, bundle.name)
    print(f"\nTo use it in VS Code, run   fimble serve {root}")
    print("and paste this into settings.json (extension: huggingface.huggingface-vscode):")
    print(json.dumps(wanted, indent=2))
    return {
        "bundle": str(bundle.folder),
        "stages": {step.stage: {"made": step.made, "seconds": round(step.seconds, 1)} for step in steps},
        "completions": shown,
    }


def held_out_places(dataset: Path) -> list[dict[str, str]]:
    """Places in held-out files: before the last part of a line with something to say, the rest of the file after it."""
    import datasets

    places = []
    rows = datasets.load_dataset(str(dataset), split="heldout", streaming=True)
    for row in rows:
        lines = row["content"].splitlines(keepends=True)
        candidates = [n for n, line in enumerate(lines) if n > 8 and re.match(r"\s+(return|if|for|self\.)\b", line)]
        if not candidates:
            continue
        at = candidates[len(candidates) // 2]
        line = lines[at].rstrip("\n")
        cut = len(line) - len(line.lstrip()) + len(line.split()[0])
        places.append(
            {
                "path": f"{row['path']}:{at + 1}",
                "prefix": "".join(lines[:at]) + line[:cut],
                "middle": line[cut:],
                "suffix": "\n" + "".join(lines[at + 1 :]),
            }
        )
        if len(places) == CURSORS:
            break
    return places


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """A `fimble serve` of its own process on a free port, stopped at the end; gives its address."""
    # -P: the working folder is the user's, and no place to import from.
    command = [sys.executable, "-P", "-m", "toolchain.cli", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process, said), daemon=True).start()
    try:
        yield _address(said)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _pump(process: subprocess.Popen[str], said: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        said.put(line)
    said.put(None)


def _address(said: queue.Queue[str | None]) -> str:
    """The address in the server's ready line. Raises StageError when it ends or stays silent instead."""
    lines: list[str] = []
    while True:
        try:
            line = said.get(timeout=START_SECONDS)
        except queue.Empty:
            line = None
        if line is None:
            raise StageError(f"the server did not start: {' '.join(lines)[-300:]}")
        lines.append(line.strip())
        if found := re.search(r"^serving .* at (http://\S+)", line):
            return found.group(1)


def _complete(url: str, place: Mapping[str, str], spec: Any) -> dict[str, Any]:
    """One request in the form of llm-vscode 0.0.38, printed beside the truth."""
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
    milliseconds = round((time.monotonic() - begun) * 1000)
    before = place["prefix"].splitlines()[-1]
    print(f"\n  {place['path']} ({milliseconds} ms)")
    print(f"    file says:  {before}|{place['middle']}")
    print(f"    completion: {before}|{text}")
    return {"place": place["path"], "truth": place["middle"], "completion": text, "milliseconds": milliseconds}
