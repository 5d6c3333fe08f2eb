"""What the rules of completion are worth: real completions of held-out code, with all rules, none, and all but each.

The cursor is put into files of a dataset's held-out split as a person's would be: at a random column of a line (the
rest of the line is missing), before a closing bracket (what stands in it is missing) and behind a line that opens a
block (the block is missing). A bundle writes after each cursor once, greedily and without rules; the rules are then
applied to that text as it would have streamed. What is counted stands for acceptance:

    exact      share of completions that are what was missing, blanks at the end aside
    right      characters that are right before the first wrong one, a completion
    wrong      characters after that, which somebody would have to delete
    nothing    share of empty completions
    harmed     share of the completions that had all that was missing, and of which a rule left less
    tokens     tokens generated until the end was known, a completion

    python -P -m benchmarks.rules BUNDLE DATASET [--items 120] [--tokens 64] [--seed 0] [--keep FILE]
                                [--without-healing]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.progress import track

from benchmarks.decode import processor_name
from serve.backends.native import open_native
from serve.bundle import open_bundle
from serve.completer import Completer
from serve.engine.sampling import Sampling
from serve.postprocessing import rules
from serve.postprocessing.cursor import Cursor
from serve.postprocessing.pipeline import Pipeline, Stream
from serve.postprocessing.rule import Ending
from serve.requests import Completion, CompletionRequest
from toolchain.contracts.progress import Silent
from train.samples.dataset import open_texts

KINDS = ("line", "bracket", "block")
LONGEST_BLOCK = 8
WINDOW = 4000
"""Characters on each side of the cursor, which is what llm-vscode sends."""


@dataclass(frozen=True)
class Item:
    kind: str
    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True)
class Written:
    """What the model wrote, piece by piece, and why it ended."""

    pieces: tuple[str, ...]
    ending: Ending


@dataclass(frozen=True)
class Result:
    text: str
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--items", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-healing", action="store_true", help="the prompt's last token stands as it is")
    parser.add_argument("--keep", type=Path, help="a file for the places and what was written there, as JSON lines")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        items = choose_items(open_texts(chosen.dataset, "heldout", Path(cache)), chosen.items, chosen.seed)
    opened = open_bundle(chosen.bundle)
    completer = Completer(opened, open_native(opened, Silent()), pipeline=(), healing=not chosen.without_healing)
    written = [write(completer, item, chosen.tokens) for item in track(items, "completing", transient=True)]
    if chosen.keep:
        kept = (asdict(item) | asdict(one) for item, one in zip(items, written, strict=True))
        chosen.keep.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
    pipelines = {"none": (), "all": rules.ALL} | {f"without {name}": rules.without([name]) for name in rules.NAMES}
    scores = {
        name: {kind: score(pipeline, items, written, kind) for kind in (*KINDS, "any")}
        for name, pipeline in pipelines.items()
    }
    report = {
        "machine": {"processor": processor_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {
            "bundle": opened.name,
            "items": {kind: sum(item.kind == kind for item in items) for kind in KINDS},
            "tokens": chosen.tokens,
            "seed": chosen.seed,
            "healing": not chosen.without_healing,
        },
        "baseline": "none: the model's text as it is",
        "scores": scores,
    }
    print(f"{processor_name()}; {opened.name}, {len(items)} places in held-out files, {chosen.tokens} tokens at most")
    for kind in ("any", *KINDS):
        print(f"\n{kind:<22}" + "".join(f"{name:>9}" for name in scores["none"][kind]))
        for name, by_kind in scores.items():
            print(f"{name:<22}" + "".join(f"{value:>9.3f}" for value in by_kind[kind].values()))
    print(json.dumps(report))


def choose_items(texts: Sequence[str], count: int, seed: int) -> list[Item]:
    """Places of all kinds in turn, at most one of a kind in a file before every file was used."""
    draw = random.Random(seed)
    places = [list(found) for found in zip(*(_shuffled(texts, kind, draw) for kind in KINDS), strict=False)]
    chosen = [item for round_ in places for item in round_][:count]
    if not chosen:
        raise SystemExit("the held-out split has no file with a place of every kind")
    return chosen


def _shuffled(texts: Sequence[str], kind: str, draw: random.Random) -> list[Item]:
    by_file = [list(places(text, kind)) for text in texts]
    for found in by_file:
        draw.shuffle(found)
    by_file = [found for found in by_file if found]
    draw.shuffle(by_file)
    depth = max(map(len, by_file), default=0)
    return [found[at] for at in range(depth) for found in by_file if at < len(found)]


def places(text: str, kind: str) -> Iterator[Item]:
    """Every place of a kind in a file; comments and blank lines have none."""
    lines = text.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))
    for at, line in enumerate(lines):
        code = line.rstrip()
        if not code.strip() or code.lstrip().startswith(("#", "//")):
            continue
        indent = len(line) - len(line.lstrip())
        if kind == "line":
            # As if typed so far: at the end of a word, in the line's first half.
            ends = [found.end() for found in re.finditer(r"\w+\W?", code) if indent < found.end() <= len(code) - 4]
            if ends:
                yield _item(kind, text, begins[at] + ends[len(ends) // 2], begins[at] + len(code))
        elif kind == "bracket":
            found = re.search(r"\(([^()]{6,})\)", code)
            if found:
                yield _item(kind, text, begins[at] + found.start(1), begins[at] + found.end(1))
        elif code.endswith((":", "{")):
            block = at + 1
            while block < len(lines) and (not lines[block].strip() or _indent(lines[block]) > indent):
                block += 1
            while not lines[block - 1].strip():
                block -= 1
            if 1 <= block - at - 1 <= LONGEST_BLOCK:
                first = begins[at + 1] + _indent(lines[at + 1])
                yield _item(kind, text, first, begins[block - 1] + len(lines[block - 1].rstrip()))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _item(kind: str, text: str, begin: int, end: int) -> Item:
    return Item(kind, text[max(begin - WINDOW, 0) : begin], text[begin:end], text[end : end + WINDOW])


def write(completer: Completer, item: Item, tokens: int) -> Written:
    request = CompletionRequest(
        item.prefix, item.suffix, max_tokens=tokens, sampling=Sampling(temperature=0.0), raw=False
    )
    *pieces, done = completer.stream(request)
    assert isinstance(done, Completion)
    return Written(tuple(map(str, pieces)), "length" if done.finish == "length" else "stop")


def process(pipeline: Pipeline, item: Item, written: Written) -> Result:
    """What an editor would have got, and after how many pieces generation would have ended."""
    stream, text = Stream(pipeline, Cursor(item.prefix, item.suffix)), ""
    for count, piece in enumerate(written.pieces, 1):
        text += stream.push(piece)
        if stream.ended:
            return Result(text, count)
    return Result(text + stream.finish(written.ending), len(written.pieces))


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def score(pipeline: Pipeline, items: Sequence[Item], written: Sequence[Written], kind: str) -> dict[str, float]:
    chosen = [(item, one) for item, one in zip(items, written, strict=True) if kind in (item.kind, "any")]
    results = [process(pipeline, item, one) for item, one in chosen]
    wanted = [item.middle.rstrip() for item, _ in chosen]
    begun = ["".join(one.pieces).startswith(middle) for (_, one), middle in zip(chosen, wanted, strict=True)]
    kept = [result.text.startswith(middle) for result, middle in zip(results, wanted, strict=True)]
    exact = [result.text.rstrip() == middle for result, middle in zip(results, wanted, strict=True)]
    right = [_common(one.text, middle) for one, middle in zip(results, wanted, strict=True)]
    figures: dict[str, Any] = {
        "exact": mean(exact),
        "right": mean(right),
        "wrong": mean(len(result.text.rstrip()) - good for result, good in zip(results, right, strict=True)),
        "nothing": mean(not result.text.strip() for result in results),
        "harmed": mean(had and not has for had, has in zip(begun, kept, strict=True)),
        "tokens": mean(result.tokens for result in results),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
