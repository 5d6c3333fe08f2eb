"""What the reference published of its own runs, beside what a plan says of them. Nothing in a plan is fitted to it.

Its loop is not ours: before QLoRA it casts to float32 what is not quantized (PEFT's `prepare_model_for_kbit_training`),
and with several passes a step Accelerate then added up whole gradients on each GPU (`no_sync`; huggingface/accelerate
pull request 2531 later documented the memory that this takes).
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.architectures.facts import Architecture
from toolchain.planning import duration, gpus, memory
from toolchain.planning.activations import FLOAT32
from toolchain.planning.duration import Duration
from toolchain.planning.gpus import Gpu
from toolchain.planning.memory import Term
from train.settings import TrainSettings


@dataclass(frozen=True)
class Published:
    """A run of the reference: gigabytes on each GPU as a range, hours, and dollars."""

    gigabytes: tuple[float, float]
    hours: float
    dollars: float


RUNS = {
    "starcoder-qlora-a100-40gb": Published((26.0, 26.0), 12.5, 13.75),
    "starcoder-full-fsdp-8xa100-80gb": Published((70.0, 77.6), 9.0, 108.0),
}


def terms(model: Architecture, settings: TrainSettings, count: int) -> list[Term]:
    """The memory of the reference's own loop on one GPU."""
    parts = memory.terms(model, settings, count, on_gpu=True, number=2, kept=FLOAT32, whole_loss=True)
    if settings.method == "full" and count > 1 and settings.gradient_accumulation > 1:
        # The parts of reduced gradients only come into being as the whole ones go; nothing of theirs was in float32.
        parts = [part for part in parts if not part.name.startswith("gradients")]
        parts.insert(1, Term("whole gradients, 16 bits", memory.unreduced_gradients(model)))
    return parts


def lasting(model: Architecture, settings: TrainSettings, gpu: Gpu, count: int) -> Duration:
    """The time of the reference's own loop, where several GPUs moved weights and gradients in 16 bits."""
    assert gpu.flops is not None
    weights = gradients = 2 * model.parameters
    # Gradients were only reduced in the last pass of a step.
    moved = (2 * weights + gradients / settings.gradient_accumulation) * (count - 1) / count
    return duration.predict(model, settings, gpu.flops, count, gpus.bandwidth("published"), moved)


def lines(run: Published, parts: list[Term], spent: Duration) -> list[str]:
    """What the terms explain of the published memory and what they do not, and the time by a plan's arithmetic."""
    total, (low, high) = memory.total(parts) / 1e9, run.gigabytes
    told = f"{low:g} GB" if low == high else f"{low:g} to {high:g} GB"
    head = f"published for the reference's own loop: {told} on each GPU, {run.hours:g} h, ${run.dollars:,.2f}"
    found = [f"  {part.name}: {part.bytes / 1e9:.2f} GB" for part in parts]
    rest = f"{low - total:.1f} GB" if low == high else f"{low - total:.1f} to {high - total:.1f} GB"
    together = f"  together {total:.1f} GB; not explained by them: {rest}"
    return [head, "its terms:", *found, together, f"  time by the same arithmetic: {spent.hours:.1f} h"]
