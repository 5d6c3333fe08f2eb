"""The page of curves: every figure of every run is on it, and nothing from elsewhere."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.toolchain.conftest import Fimble
from toolchain.contracts import manifest
from toolchain.report_chart import Line, chart, ticks

CURVE = [
    {"step": 0, "train_loss": None, "loss": 4.0, "bits_per_byte": 1.5, "learning_rate": None},
    {"step": 50, "train_loss": 3.5, "loss": 3.25, "bits_per_byte": 1.2, "learning_rate": 5e-4},
    {"step": 100, "train_loss": 3.1, "loss": 3.375, "bits_per_byte": 1.25, "learning_rate": 0.0},
]
STEPS = [{"step": step, "loss": 4.0 - step / 100, "learning_rate": 5e-4} for step in range(2, 101, 2)]


def trained(folder: Path, name: str, method: str = "lora") -> Path:
    settings = {"method": method, "learning_rate": 5e-4, "batch_size": 8}
    kind = "checkpoint" if method == "full" else "adapter"
    with manifest.writing(folder, kind=kind, recipe=1, parents=(), settings=settings | {"name": name}) as draft:
        (draft.path / "weights").write_bytes(b"")
        held_out = {"start": CURVE[0], "end": CURVE[1]}
        draft.facts |= {"name": name, "method": method, "steps": 100, "tokens_seen": 1_638_400}
        draft.facts |= {"held_out": held_out, "loss_curve": CURVE, "training_curve": STEPS, "processes": 3}
    return folder


def test_two_runs_on_one_page(fimble: Fimble, tmp_path: Path) -> None:
    done = fimble(
        "report",
        trained(tmp_path / "a", "<star> & coder"),
        trained(tmp_path / "b", "star", "full"),
        "--out",
        "page.html",
        "--json",
    )
    assert done.code == 0
    assert [name.split()[0] for name in done.report["runs"]] == ["<star>", "star"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<polyline") == 2 * 4
    assert "&lt;star&gt; &amp; coder lora" in page
    assert "<star>" not in page
    assert "1,638,400" in page
    assert "step 50: 3.25<" in page
    assert "step 42: 3.58<" in page
    assert "<th>processes</th><td>3</td><td>3</td>" in page
    # The key stays in sight, and tells the runs apart.
    legend = page.partition('<p class="legend">')[2].partition("</p>")[0]
    assert ".legend { position: sticky; top: 0;" in page
    assert len(set(re.findall(r"stroke=\S+", legend))) == 2
    assert not re.search(r"https?://|<script|src=|@import", page)


@pytest.mark.parametrize("mark", ["lock", "current"])
def test_a_workspace_gives_all_its_trainings(fimble: Fimble, tmp_path: Path, mark: str) -> None:
    """`current` is a file with a path where there are no links, and locks do not stay everywhere."""
    workspace = tmp_path / ".fimble"
    for kind in ("adapter", "checkpoint"):
        (workspace / kind).mkdir(parents=True)
    (workspace / mark).write_text("bundle/1\n")
    trained(workspace / "adapter" / "1", "tuned")
    trained(workspace / "checkpoint" / "2", "scratch", "full")
    (workspace / "adapter" / ".3.partial").mkdir()
    assert len(fimble("report", workspace, "--json").report["runs"]) == 2


def test_what_holds_no_training_is_refused(fimble: Fimble, tmp_path: Path) -> None:
    with manifest.writing(tmp_path / "merged", kind="checkpoint", recipe=1, parents=(), settings={}) as draft:
        (draft.path / "weights").write_bytes(b"")
    fimble("report", tmp_path / "merged").refused("merged holds no training")
    fimble("report", tmp_path / "nowhere").refused("nowhere")
    assert not (tmp_path / "report.html").exists()


def test_only_an_earlier_page_is_written_over(fimble: Fimble, tmp_path: Path) -> None:
    run = trained(tmp_path / "a", "one")
    assert fimble("report", run, "--out", "page.html").code == 0
    before = (run / manifest.MANIFEST).read_bytes()
    fimble("report", run, "--out", ".").refused(". is a folder", "--out report.html")
    fimble("report", run, "--out", run / manifest.MANIFEST).refused("is no page of fimble report")
    fimble("report", run, "--out", "/dev/null").refused("is no page of fimble report")
    assert (run / manifest.MANIFEST).read_bytes() == before
    assert fimble("report", run, "--out", "page.html").code == 0


@example(low=0.0, high=5e-324)
@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6))
def test_ticks_enclose_what_they_measure(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@pytest.mark.parametrize("points", [((0, 1.0),), ((0, 0.0), (5, 0.0)), ((0, 1e-9), (10, 5e-4), (20, -3.0))])
def test_every_point_lies_inside_its_chart(points: tuple[tuple[float, float], ...]) -> None:
    drawn = ElementTree.fromstring(chart([Line("a", 7, points)]))
    circles = [node for node in drawn if node.tag == "circle"]
    assert len(circles) == len(points)
    assert all(0 <= float(node.get("cx", -1)) <= 900 and 0 <= float(node.get("cy", -1)) <= 300 for node in circles)
