"""One self-contained page with the curves of trainings: what was lowered, when, and at which learning rate.

The figure of the reference recipe is the model: training loss, evaluation loss and learning rate over the steps, the
runs laid over one another. The page loads nothing from elsewhere and holds no script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, SettingsError
from toolchain.report_chart import Line, chart
from toolchain.workspace import is_workspace

TRAINED = ("adapter", "checkpoint")
MARK = '<meta name="generator" content="fimble report">'
"""By which an earlier page is known."""
SETTINGS = ("method", "learning_rate", "batch_size", "gradient_accumulation", "sequence_length", "max_steps", "seed")
STYLE = """
:root { color-scheme: light dark; --text: #1d2421; --faint: #5b6661; --line: #d5dbd8; --ground: #f6f7f5; }
@media (prefers-color-scheme: dark) { :root { --text: #e5ebe8; --faint: #a0aca6; --line: #38423d; --ground: #151917; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 12px; }
svg .grid { stroke: var(--line); } h2 { font-size: 1.05rem; margin: 1.5rem 0 .3rem; }
div { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { position: sticky; left: 0; background: var(--ground); }
tr:first-child th { white-space: normal; min-width: 8rem; vertical-align: top; overflow-wrap: anywhere; }
.legend { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: 0 1.2rem; max-height: 30vh; overflow-y: auto;
  margin: 1rem 0; padding: .4rem 0; font-size: .85rem;
  background: var(--ground); border-bottom: 1px solid var(--line); }
.key { width: 28px; height: 8px; vertical-align: middle; }
"""


@dataclass(frozen=True)
class TrainedRun:
    """A training, by what its artifact says of it.

    `curve` are its evaluations, as `train/run/record.py` has them, and `steps` its training losses, as
    `train/run/training_curve.py` does.
    """

    name: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    curve: list[dict[str, Any]]
    steps: list[dict[str, Any]]


def read_runs(folders: Iterable[Path]) -> list[TrainedRun]:
    """The trainings in `folders`: artifacts, or workspaces with any number of them.

    Raises ArtifactError for a folder without a training.
    """
    runs: list[TrainedRun] = []
    for folder in folders:
        found = [folder]
        if is_workspace(folder):
            found = sorted(path for kind in TRAINED for path in folder.glob(f"{kind}/*/") if manifest.is_whole(path))
        read = [run for path in found for run in _read(path)]
        if not read:
            raise ArtifactError(f"{folder} holds no training", "Name an adapter or a checkpoint of fimble train.")
        runs += read
    return runs


def _read(folder: Path) -> list[TrainedRun]:
    """The training that made the artifact, if one did: a merged checkpoint has none of its own."""
    found = manifest.read(folder)
    if found.kind not in TRAINED or not found.facts.get("loss_curve"):
        return []
    name = f"{found.facts.get('name', found.kind)} {found.facts.get('method', '')} {found.digest[:8]}"
    steps = found.facts.get("training_curve", [])
    return [TrainedRun(" ".join(name.split()), found.settings, found.facts, found.facts["loss_curve"], steps)]


def write_page(runs: Sequence[TrainedRun], out: Path) -> None:
    """Write the page for `runs` to `out`, whole or not at all."""
    check_out(out)
    manifest.write_text(out, page(runs))


def check_out(out: Path) -> None:
    """Raise SettingsError unless `out` is free, or an earlier page."""
    if not out.exists():
        return
    if out.is_dir():
        raise SettingsError(f"{out} is a folder", f"Name the page to write: --out {out / 'report.html'}.")
    if not out.is_file() or MARK.encode() not in out.read_bytes()[:1000]:
        raise SettingsError(f"{out} is no page of fimble report, and stays as it is", "Name another page with --out.")


def page(runs: Sequence[TrainedRun]) -> str:
    """The page's HTML."""
    evaluations, steps = [run.curve for run in runs], [run.steps for run in runs]
    names = [run.name for run in runs]
    charts = [
        ("Held-out loss, nats a token", _lines(names, evaluations, "loss")),
        ("Training loss, nats a token", _lines(names, steps, "loss")),
        ("Held-out bits a byte", _lines(names, evaluations, "bits_per_byte")),
        ("Learning rate", _lines(names, steps, "learning_rate")),
    ]
    figures = "".join(f"<h2>{escape(title)}</h2>{chart(lines)}" for title, lines in charts if lines)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{MARK}'
        f"<title>Training</title><style>{STYLE}</style><h1>Training</h1>{_table(runs)}{_legend(names)}{figures}</html>\n"
    )


def _lines(names: Sequence[str], curves: Sequence[list[dict[str, Any]]], figure: str) -> list[Line]:
    """A figure over the steps, of every run that has it."""
    found = []
    for number, (name, curve) in enumerate(zip(names, curves, strict=True)):
        points = [(point["step"], point[figure]) for point in curve if point.get(figure) is not None]
        if points:
            found.append(Line(name, number, tuple(points)))
    return found


def _legend(names: Sequence[str]) -> str:
    """The key to the lines, which stays in sight beside every figure."""
    keys = "".join(f"<span>{Line(name, at, ()).key} {escape(name)}</span>" for at, name in enumerate(names))
    return f'<p class="legend">{keys}</p>'


def _table(runs: Sequence[TrainedRun]) -> str:
    """The runs side by side."""
    rows: list[tuple[str, Callable[[TrainedRun], object]]] = [
        ("held-out loss at the start", lambda run: _held_out(run, "start", "loss")),
        ("held-out loss, best", lambda run: _held_out(run, "end", "loss")),
        ("bits a byte, best", lambda run: _held_out(run, "end", "bits_per_byte")),
        ("best step", lambda run: _held_out(run, "end", "step")),
        ("steps", lambda run: run.facts.get("steps")),
        ("tokens seen", lambda run: run.facts.get("tokens_seen")),
        ("processes", lambda run: run.facts.get("processes")),
        ("trained parameters", lambda run: run.facts.get("trained_parameters")),
        *((name.replace("_", " "), lambda run, name=name: run.settings.get(name)) for name in SETTINGS),
    ]
    keys = "".join(f"<th>{Line(run.name, at, ()).key} {escape(run.name)}</th>" for at, run in enumerate(runs))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(_shown(value(run)))}</td>' for run in runs)}</tr>"
        for name, value in rows
    )
    return f"<div><table><tr><th></th>{keys}</tr>{body}</table></div>"


def _held_out(run: TrainedRun, when: str, name: str) -> object:
    return run.facts.get("held_out", {}).get(when, {}).get(name)


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
