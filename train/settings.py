"""Settings of training: `TrainSettings` for fine-tuning any base, `ScratchSettings` for the base grown on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from toolchain.contracts.errors import SettingsError


@dataclass(frozen=True)
class TrainSettings:
    """The defaults are the reference recipe's for a LoRA on starcoderbase-1b."""

    method: Literal["lora", "full"] = "lora"
    """What is trained: `lora` (an adapter) or `full` (every weight)."""

    sequence_length: int = 2048
    """Tokens in a training sequence; documents are cut into chunks that fit it."""

    max_steps: int = 2000
    """Optimizer steps."""

    batch_size: int = 8
    """Sequences in one forward pass."""

    gradient_accumulation: int = 2
    """Forward passes in one optimizer step."""

    learning_rate: float = 5e-4
    """The highest learning rate, reached after the warm-up; a cosine takes it down to zero."""

    warmup_steps: int = 30
    """Steps over which the learning rate rises from zero."""

    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices only."""

    fim_rate: float = 0.5
    """The share of chunks that are made into fill-in-the-middle samples."""

    spm_rate: float = 0.5
    """The share of those that are in suffix-prefix-middle order, where the base knows it."""

    lora_rank: int = 8
    """The rank of the adapter's matrices."""

    lora_alpha: int = 32
    """The adapter's output is scaled by alpha / rank."""

    lora_dropout: float = 0.0
    """Dropout before the adapter."""

    lora_target: tuple[str, ...] = ()
    """A layer to adapt, by the end of its name; may be given more than once. The architecture's own list unless given."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out files; the start and the end are always evaluated."""

    evaluate_sequences: int = 64
    """Held-out sequences in an evaluation."""

    save_every: int = 50
    """Steps between the saved states that an interrupted run resumes from."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, with less memory."""

    seed: int = 0
    """Decides the order of documents, the cuts and the first weights of the adapter."""

    def __post_init__(self) -> None:
        if self.method not in ("lora", "full"):
            raise SettingsError(f"--method {self.method} is not known", "Use lora or full.")
        _check_common(self)
        if self.lora_rank < 1 or self.lora_alpha < 1 or not 0 <= self.lora_dropout < 1:
            raise SettingsError("--lora-rank and --lora-alpha must be 1 or more, --lora-dropout from 0 to below 1")


@dataclass(frozen=True)
class ScratchSettings:
    """A GPTBigCode model small enough to grow on two processor cores in a few minutes."""

    vocabulary: int = 4096
    """Entries of the tokenizer that is trained on the dataset."""

    hidden_size: int = 256
    """Width of the model, a multiple of 64."""

    layers: int = 4
    """Transformer blocks."""

    context_size: int = 1024
    """Positions the model has; it learns those that training sequences reach."""

    sequence_length: int = 512
    """Tokens in a training sequence."""

    max_steps: int = 400
    """Optimizer steps."""

    batch_size: int = 8
    """Sequences in one optimizer step."""

    learning_rate: float = 2e-3
    """The highest learning rate."""

    warmup_steps: int = 20
    """Steps over which the learning rate rises from zero."""

    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices only."""

    fim_rate: float = 0.5
    """The share of chunks that are made into fill-in-the-middle samples."""

    spm_rate: float = 0.5
    """The share of those that are in suffix-prefix-middle order."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out files."""

    evaluate_sequences: int = 32
    """Held-out sequences in an evaluation."""

    save_every: int = 50
    """Steps between the saved states that an interrupted run resumes from."""

    seed: int = 0
    """Decides the first weights, the order of documents and the cuts."""

    def __post_init__(self) -> None:
        _check_common(self)
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise SettingsError(f"hidden-size {self.hidden_size} in [scratch] must be a multiple of 64")
        if self.vocabulary < 512 or self.layers < 1:
            raise SettingsError("[scratch] needs a vocabulary of 512 or more and at least one layer")
        if self.sequence_length > self.context_size:
            raise SettingsError("sequence-length in [scratch] is greater than context-size", "Raise context-size.")


FOR_SCRATCH: dict[str, Any] = {
    "sequence_length": 512,
    "max_steps": 150,
    "gradient_accumulation": 1,
    "learning_rate": 2e-3,
    "warmup_steps": 10,
    "lora_rank": 32,
    "lora_alpha": 64,
    "evaluate_every": 50,
    "evaluate_sequences": 32,
}
"""Defaults of `TrainSettings` that change when the base is `scratch`: sized for that model and two cores."""


def _check_common(settings: TrainSettings | ScratchSettings) -> None:
    for name in ("sequence_length", "max_steps", "batch_size", "evaluate_every", "evaluate_sequences", "save_every"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"--{name.replace('_', '-')} {getattr(settings, name)} is below 1")
    if settings.sequence_length < 64:
        raise SettingsError(f"--sequence-length {settings.sequence_length} is too short", "Use 64 or more.")
    for name in ("fim_rate", "spm_rate"):
        if not 0 <= getattr(settings, name) <= 1:
            raise SettingsError(f"--{name.replace('_', '-')} {getattr(settings, name)} is not between 0 and 1")
    if settings.learning_rate <= 0 or settings.weight_decay < 0 or settings.warmup_steps < 0:
        raise SettingsError("--learning-rate must be above 0, --weight-decay and --warmup-steps not below 0")
