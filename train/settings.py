"""The settings of a training, which refuse what contradicts itself whatever the base is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import at_least, check, flag
from train import effects

Method = Literal["lora", "qlora", "full"]
Init = Literal["zero", "pissa"]
Cuts = Literal["random", "lines", "syntax"]
Objective = Literal["fim", "chat"]
ChatTemplateChoice = Literal["auto", "base", "reference"]
OptimizerName = Literal["adamw", "paged_adamw_32bit", "adamw_8bit"]
Schedule = Literal["cosine", "constant"]
Dtype = Literal["auto", "float32", "bfloat16"]

LEAST_CONTEXT = 34
"""Tokens of other files, with two separators, below which there is nothing to read in them."""

LEARNING_RATES: dict[str, float] = {"lora": 5e-4, "qlora": 5e-4, "full": 5e-5}


def check_seed(seed: int) -> None:
    """Raise SettingsError for a seed that a step's number could take out of what PyTorch's generators accept."""
    check("--seed", seed, 0 <= seed < 1 << 32, f"a number from 0 to {(1 << 32) - 1}")


def check_warmup(steps: int, most: int) -> None:
    """Raise SettingsError for a warm-up that is longer than the training."""
    if steps > most:
        raise SettingsError(
            f"--warmup-steps {steps} is more than --max-steps {most}", "Use fewer: at most half of them."
        )


@dataclass(frozen=True)
class TrainSettings:
    """The defaults are the reference recipe's for starcoderbase-1b."""

    objective: Objective = "fim"
    """What is learnt: fim (to complete code, from a dataset of code) or chat (to answer, from one of dialogues)."""

    method: Method = "lora"
    """What is trained: lora (an adapter), qlora (one over a base held in 4 bits) or full (every weight)."""

    sequence_length: int = 2048
    """Tokens in a training sequence, never more than the model's context; files and dialogues are cut to fit."""

    max_steps: int = 2000
    """Optimizer steps at most."""

    max_epochs: float = 4.0
    """Passes over the dataset at most: a small one is not learnt by heart."""

    batch_size: int = 8
    """Sequences in one forward pass."""

    gradient_accumulation: int = 2
    """Forward passes in one optimizer step."""

    learning_rate: float | None = None
    """The highest learning rate; 5e-5 for full and 5e-4 otherwise, unless given."""

    warmup_steps: int = 30
    """Steps over which the learning rate rises from zero."""

    schedule: Schedule = "cosine"
    """What the learning rate does after the warm-up: cosine (down to zero) or constant."""

    optimizer: OptimizerName = "adamw"
    """AdamW: adamw, or bitsandbytes' paged_adamw_32bit (states in main memory when a GPU is full) or adamw_8bit."""

    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices only."""

    max_gradient_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""

    fim_rate: float = 0.5
    """The share of chunks that become fill-in-the-middle samples."""

    spm_rate: float = 0.5
    """The share of those that have the suffix first, where the base knows both orders."""

    add_fim_tokens: bool = False
    """Give a base that cannot fill in the middle the tokens for it, and train their embeddings beside the rest."""

    cuts: Cuts = "random"
    """Where the middle is cut out: random (anywhere), lines (whole ones) or syntax (nodes of the syntax tree)."""

    repository_context: int = 0
    """Tokens of other files of the same repository before each chunk, for a base that has a file separator."""

    chat_template: ChatTemplateChoice = "auto"
    """How chats are written: base (its own template), reference (plain-text tags) or auto (base where it has one)."""

    lora_rank: int = 8
    """The rank of the adapter's matrices."""

    lora_alpha: int = 32
    """The adapter's output is scaled by alpha / rank."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, so that high ranks learn as fast as low ones (rank-stabilised LoRA)."""

    dora: bool = False
    """Also learn the length of each row of the adapted matrices (DoRA): more memory and time, often a better fit."""

    init: Init = "zero"
    """Where the adapter starts: zero (it changes nothing) or pissa (from the base's principal components)."""

    lora_dropout: float = 0.0
    """Dropout before the adapter's matrices."""

    lora_target: tuple[str, ...] = ()
    """A layer to adapt, by the end of its name; may be given more than once. Otherwise the architecture's list."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out files; the start and the end are always evaluated."""

    evaluate_sequences: int = 64
    """Held-out sequences in an evaluation."""

    patience: int = 5
    """Evaluations in a row without a better held-out loss after which training ends. The best weights are kept."""

    save_every: int = 50
    """Steps between the states that an interrupted run resumes from."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, with less memory."""

    dtype: Dtype = "auto"
    """Arithmetic in float32 or bfloat16; auto is bfloat16 where the device has instructions for it."""

    seed: int = 0
    """Decides the order of files, the cuts, dropout and the adapter's first weights."""

    def __post_init__(self) -> None:
        self._check_values()
        self._check_effects()
        self._check_contradictions()

    def _check_values(self) -> None:
        at_least("--sequence-length", self.sequence_length, 64)
        counts = ("max_steps", "batch_size", "gradient_accumulation", "lora_rank", "lora_alpha")
        for name in (*counts, "evaluate_every", "evaluate_sequences", "patience", "save_every"):
            at_least(flag(name), getattr(self, name), 1)
        for name in ("warmup_steps", "repository_context"):
            at_least(flag(name), getattr(self, name), 0)
        check_seed(self.seed)
        most, context = self.sequence_length // 2, self.repository_context
        fits = context == 0 or LEAST_CONTEXT <= context <= most
        some = f", or from {LEAST_CONTEXT} to {most}, half of the sequence" if most >= LEAST_CONTEXT else ""
        check("--repository-context", context, fits, f"0{some}")
        for name in ("fim_rate", "spm_rate"):
            check(flag(name), getattr(self, name), 0 <= getattr(self, name) <= 1, "a number between 0 and 1")
        check("--lora-dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "a number from 0 to below 1")
        check("--weight-decay", self.weight_decay, self.weight_decay >= 0, "a number of 0 or more")
        for name in ("max_epochs", "max_gradient_norm"):
            check(flag(name), getattr(self, name), getattr(self, name) > 0, "a number above 0")
        rate = self.learning_rate
        check("--learning-rate", rate, rate is None or rate > 0, "a number above 0")

    def _check_effects(self) -> None:
        for name, beside in effects.idle(vars(self)).items():
            if self.asks_for(name):
                raise SettingsError(f"{flag(name)} has no effect with {beside}", "Leave one of them out.")

    def _check_contradictions(self) -> None:
        if self.asks_for("warmup_steps"):
            check_warmup(self.warmup_steps, self.max_steps)
        if self.add_fim_tokens and not (self.fim_rate > 0 and 0 < self.spm_rate < 1):
            raise SettingsError(
                "--add-fim-tokens needs samples of both orders to learn its tokens from",
                "Use a --fim-rate above 0 and a --spm-rate between 0 and 1.",
            )
        if self.init == "pissa" and self.method == "qlora":
            raise SettingsError(
                "--init pissa takes a part out of the base, which --method qlora holds in 4 bits", "Use --method lora."
            )
        if self.init == "pissa" and self.dora:
            raise SettingsError(
                "--init pissa with --dora cannot be written as an adapter of the base", "Use one of the two."
            )

    def asks_for(self, name: str) -> bool:
        """Whether the setting called `name` is another than its default, so that somebody chose it."""
        return bool(getattr(self, name) != _DEFAULTS[name])

    def with_method(self, method: Method) -> TrainSettings:
        """These settings for another method, without what would do nothing there."""
        names = {*(effects.ADAPTERS if method == "full" else ()), *(("init",) if method == "qlora" else ())}
        return replace(self, method=method, **{name: _DEFAULTS[name] for name in names})

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and the base stays as it is."""
        return self.method != "full"

    @property
    def peak_learning_rate(self) -> float:
        """The highest learning rate: the given one, or the method's own."""
        return self.learning_rate if self.learning_rate is not None else LEARNING_RATES[self.method]


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TrainSettings)}
