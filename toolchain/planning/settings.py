"""What a plan is made for: the settings of `[train]` that decide memory and time, and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.settings import at_least, check, flag
from train.settings import Dtype, Method, OptimizerName

Link = Literal["published", "pcie", "nvlink"]


@dataclass(frozen=True)
class PlanSettings:
    """The fields have the names and the defaults of `TrainSettings`."""

    method: Method = "lora"
    """What is trained: lora (an adapter), qlora (an adapter on 4-bit weights) or full (every weight)."""

    sequence_length: int = 2048
    """Tokens in a training sequence."""

    batch_size: int = 8
    """Sequences in one forward pass on each GPU."""

    gradient_accumulation: int = 2
    """Forward passes in one optimizer step."""

    max_steps: int = 2000
    """Optimizer steps."""

    optimizer: OptimizerName = "adamw"
    """AdamW: adamw, or bitsandbytes' paged_adamw_32bit (states in main memory when a GPU is full) or adamw_8bit."""

    add_fim_tokens: bool = False
    """Train the rows of three new tokens beside the adapter, for a base that cannot fill in the middle."""

    lora_rank: int = 8
    """The rank of the adapter's matrices."""

    lora_target: tuple[str, ...] = ()
    """A layer to adapt, by the end of its name; may be given more than once. Otherwise the architecture's list."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""

    evaluate_every: int = 100
    """Steps between evaluations."""

    evaluate_sequences: int = 64
    """Held-out sequences in an evaluation."""

    dtype: Dtype = "auto"
    """Arithmetic in float32 or bfloat16; auto is bfloat16 on a GPU."""

    def __post_init__(self) -> None:
        names = ("sequence_length", "batch_size", "gradient_accumulation", "max_steps", "lora_rank")
        for name in (*names, "evaluate_every", "evaluate_sequences"):
            at_least(flag(name), getattr(self, name), 1)


@dataclass(frozen=True)
class MachineSettings:
    gpu: str | None = None
    """The GPU to plan for, by its name in the table; this machine unless given."""

    count: int = 1
    """How many of them share the training."""

    link: Link = "published"
    """What connects several: nvlink or pcie, at NCCL's measured rates, or published, at the reference's pace."""

    price: float | None = None
    """Dollars an hour for one; the table's unless given."""

    def __post_init__(self) -> None:
        at_least("--count", self.count, 1)
        check("--price", self.price, self.price is None or self.price >= 0, "a number of 0 or more")
