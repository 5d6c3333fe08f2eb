"""The settings of the base `scratch`: how it is grown, and what it changes in the training that comes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolchain.contracts.settings import at_least, check, flag
from train.settings import TrainSettings, check_seed, check_warmup


@dataclass(frozen=True)
class ScratchSettings:
    """A GPTBigCode model small enough to grow on two processor cores in a few minutes."""

    vocabulary: int = 4096
    """Entries of the tokenizer that is trained on the dataset."""

    hidden_size: int = 256
    """Width of the model, a multiple of 64."""

    layers: int = 4
    """Transformer blocks."""

    context_size: int = 512
    """Positions that the model has, and tokens in a training sequence, so that every position is learnt."""

    max_steps: int = 400
    """Optimizer steps."""

    batch_size: int = 4
    """Sequences in one optimizer step."""

    learning_rate: float = 2e-3
    """The highest learning rate; a cosine takes it down to zero."""

    warmup_steps: int = 20
    """Steps over which the learning rate rises from zero."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out files."""

    evaluate_sequences: int = 24
    """Held-out sequences in an evaluation."""

    seed: int = 0
    """Decides the first weights, the order of files and the cuts."""

    def __post_init__(self) -> None:
        at_least("--vocabulary", self.vocabulary, 512)
        at_least("--context-size", self.context_size, 64)
        for name in ("layers", "max_steps", "batch_size", "evaluate_every", "evaluate_sequences"):
            at_least(flag(name), getattr(self, name), 1)
        at_least("--warmup-steps", self.warmup_steps, 0)
        if self.warmup_steps != type(self).warmup_steps:
            check_warmup(self.warmup_steps, self.max_steps)
        check_seed(self.seed)
        size, rate = self.hidden_size, self.learning_rate
        check("--hidden-size", size, size >= 64 and size % 64 == 0, "a multiple of 64, the width of a head")
        check("--learning-rate", rate, rate > 0, "a number above 0")

    def training(self) -> TrainSettings:
        """How the model is trained: every weight, from random ones, in the plain float32 of a processor."""
        return TrainSettings(
            method="full",
            sequence_length=self.context_size,
            max_steps=self.max_steps,
            max_epochs=100.0,
            batch_size=self.batch_size,
            gradient_accumulation=1,
            learning_rate=self.learning_rate,
            warmup_steps=min(self.warmup_steps, self.max_steps),
            evaluate_every=self.evaluate_every,
            evaluate_sequences=self.evaluate_sequences,
            seed=self.seed,
        )


FOR_SCRATCH: dict[str, Any] = {
    "sequence_length": 512,
    "max_steps": 80,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 10,
    "lora_rank": 16,
    "evaluate_every": 20,
    "evaluate_sequences": 24,
}
"""Defaults of `TrainSettings` that change when the base is `scratch`: sized for that model and two cores."""
