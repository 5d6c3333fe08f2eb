"""The figures in docs/planning.md are those that a plan gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.planning import command, gpus, memory, models, published
from train import presets

PAGE = (Path(__file__).parents[3] / "docs" / "planning.md").read_text(encoding="utf-8")
QLORA, FSDP = published.RUNS


def plan(name: str, **flags: Any) -> dict[str, Any]:
    return command.run(None, presets.load(name), {}, flags)[0]


def theirs(name: str) -> float:
    """Gigabytes that are predicted for the reference's own loop."""
    preset = presets.load(name)
    parts = published.terms(models.read(preset.base), command.settings_for(preset), preset.count)
    return memory.total(parts) / 1e9


def test_the_table_of_presets() -> None:
    rows = []
    for name in presets.names():
        preset, found = presets.load(name), plan(name)
        room = f"{found['bytes'] / 1e9:.1f} GB of {gpus.find(preset.gpu).memory / 1e9:.1f} GB"
        rows.append(
            f"| `{name}` | {room} ({preset.count} x {preset.gpu}) | {found['hours']:.1f} h | ${found['dollars']:.2f} |"
        )
    assert "\n".join(rows) in PAGE


def test_the_table_beside_the_reference() -> None:
    for name, head in ((QLORA, "QLoRA"), (FSDP, "full")):
        run = published.RUNS[name]
        low, high = run.gigabytes
        told = f"{low:g} GB" if low == high else f"{low:g} to {high:g} GB"
        on = "" if name == QLORA else " on each of 8"
        assert f"| {head}, memory{on} | {told} | {theirs(name):.1f} GB |" in PAGE
        cost = f"{run.hours:g} h, ${run.dollars:.2f}".removesuffix(".00")
        preset = presets.load(name)
        gpu, model = gpus.find(preset.gpu), models.read(preset.base)
        spent = published.lasting(model, command.settings_for(preset), gpu, preset.count)
        assert gpu.price is not None
        dollars = spent.hours * gpu.price * preset.count
        assert f"| {head}, time and cost | {cost} | {spent.hours:.1f} h, ${dollars:.2f} |" in PAGE


def test_what_the_page_says_of_the_sharded_run() -> None:
    low, high = published.RUNS[FSDP].gigabytes
    assert f"The other {low - theirs(FSDP):.0f} to {high - theirs(FSDP):.1f} GB" in " ".join(PAGE.split())
    assert f"{gpus.bandwidth('published') / 1e9:.0f} GB/s" in PAGE
    assert f"gives\n  {plan(FSDP)['hours']:.1f} h." in PAGE
    assert f"Fimble's plan, {plan(FSDP)['bytes'] / 1e9:.1f} GB" in PAGE
    assert f"{plan(FSDP, link='pcie')['hours']:.1f} h over PCIe" in PAGE
    assert f"{plan(FSDP, link='nvlink')['hours']:.1f} h over NVLink" in PAGE


def test_what_the_page_says_of_a_mac() -> None:
    flags = {"gpu": "apple-16gb", "batch_size": 1, "gradient_accumulation": 16, "gradient_checkpointing": True}
    found, _ = command.run("bigcode/starcoderbase-1b", None, {}, {**flags, "dtype": "float32"})
    assert f"planned at {found['bytes'] / 1e9:.1f} GB in 32 bits" in PAGE
    assert f"of {gpus.find('apple-16gb').memory / 1e9:.1f} GB that Metal recommends" in PAGE
