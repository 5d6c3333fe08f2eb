"""The training loop, the same for LoRA and for every weight: whatever requires a gradient is trained.

AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), linear warm-up, then a cosine to zero or a constant rate. The
weights that are kept are those of the best held-out loss. Nothing random is carried from step to step: batches come
from a stream whose place is saved, and dropout draws from the seed and the step's number; so a run that was killed
and resumed ends with the very weights of an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from toolchain.contracts.errors import StageError
from toolchain.contracts.progress import Progress
from train.loss import Score, score, token_losses
from train.packing import Batch
from train.run_state import RunStates
from train.settings import TrainSettings
from train.stream import BatchStream, Place

BETAS = (0.9, 0.95)
SMALLER = "Use a smaller --batch-size with more --gradient-accumulation, a smaller --sequence-length, or "


@dataclass(frozen=True)
class HeldOut:
    """What a model is measured with while it is trained."""

    batches: Sequence[Batch]
    control: frozenset[int]


@dataclass(frozen=True)
class Point:
    """One evaluation. `train_loss` is the mean since the one before, `learning_rate` that of the step itself."""

    step: int
    train_loss: float | None
    loss: float
    bits_per_byte: float
    learning_rate: float | None = None


@dataclass
class Record:
    """What a run knows of itself, and what its artifact will say of it: no times, so that it can be repeated."""

    step: int = 0
    tokens: int = 0
    curve: list[Point] = field(default_factory=list)
    best: Point | None = None
    since: list[float] = field(default_factory=list)
    """Training losses since the last evaluation."""
    threads: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        points = {"curve": [Point(**point) for point in content["curve"]]}
        return cls(**content | points | {"best": Point(**content["best"]) if content["best"] else None})


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate of step 1 to `steps`."""
    peak, warmup = settings.peak_learning_rate, min(settings.warmup_steps, steps // 2)
    if step <= warmup:
        return peak * step / warmup
    if settings.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / max(1, steps - warmup)))


@dataclass
class Run:
    """A training of at most `steps` steps."""

    model: Any
    stream: BatchStream
    held_out: HeldOut
    settings: TrainSettings
    steps: int
    states: RunStates
    dtype: torch.dtype
    progress: Progress

    def __post_init__(self) -> None:
        self.weights: dict[str, Tensor] = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.weights.values())).device
        self.held_out = HeldOut([batch.to(self.device) for batch in self.held_out.batches], self.held_out.control)
        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        others = [weight for weight in self.weights.values() if weight.ndim <= 1]
        decay = self.settings.weight_decay
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)
        # Sums of floats depend on how they are split among threads.
        self.record = Record(threads=torch.get_num_threads())
        self.place = self.stream.place()
        self.updating = False

    def train(self) -> Record:
        """Train the model, and leave it with the weights of the best evaluation.

        Raises StageError when the loss is not finite any more, memory does not suffice, or a state cannot be saved.
        """
        threads = torch.get_num_threads()
        try:
            self._resume()
            return self._to_the_end()
        except torch.OutOfMemoryError:
            raise _out_of_memory(self.settings) from None
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise _out_of_memory(self.settings) from None
            raise
        finally:
            torch.set_num_threads(threads)

    def _resume(self) -> None:
        state = self.states.latest()
        if state is not None:
            self.record = Record.from_json(state.record["run"])
            self.place = Place.from_json(state.record["place"])
            self.stream.resume(self.place)
            _load(self.weights, state.weights)
            self.optimizer.load_state_dict(state.optimizer)
            self.progress.say(f"Resuming after step {self.record.step} of {self.steps}")
        torch.set_num_threads(self.record.threads)

    def _to_the_end(self) -> Record:
        record, settings = self.record, self.settings
        self.model.train()
        self.progress.start("Training", self.steps, "steps")
        self.progress.advance(record.step)
        clock, begun = time.monotonic(), record.tokens
        try:
            while True:
                done = record.step == self.steps
                due = done or record.step % settings.evaluate_every == 0
                if due and not (record.curve and record.curve[-1].step == record.step):
                    self._evaluate()
                done = done or self._evaluations_since_best() >= settings.patience
                if record.step and (done or record.step % settings.save_every == 0):
                    self._save()
                if done:
                    break
                loss = self._step()
                rate = (record.tokens - begun) / max(time.monotonic() - clock, 1e-9)
                held_out = record.curve[-1].loss
                self.progress.advance(1, f"loss {loss:.2f} held-out {held_out:.2f} {rate:,.0f} tokens/s")
        except KeyboardInterrupt:
            if not self.updating:
                self._save()
            raise
        self.progress.finish()
        self._take_best()
        return record

    def _step(self) -> float:
        """One update, with the mean loss over all tokens of all its batches."""
        step = self.record.step + 1
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        batches = [self.stream.next() for _ in range(self.settings.gradient_accumulation)]
        predicted = sum(batch.predicted for batch in batches)
        total = 0.0
        for batch in batches:
            loss = token_losses(self.model, batch.to(self.device), self.dtype).sum() / predicted
            torch.autograd.backward(loss)
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_gradient_norm)
        if not (math.isfinite(total) and bool(norm.isfinite())):
            raise StageError(
                f"at step {step} the loss is {total} and the gradient's norm {float(norm)}",
                f"Use a lower --learning-rate than {self.settings.peak_learning_rate:g} or more --warmup-steps.",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.settings)
        self.updating = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.record.step = step
        self.record.tokens += sum(batch.tokens for batch in batches)
        self.record.since.append(total)
        self.place = self.stream.place()
        self.updating = False
        return total

    def _evaluate(self) -> None:
        found: Score = score(self.model, self.held_out.batches, self.held_out.control, self.dtype)
        record = self.record
        if not math.isfinite(found.loss):
            raise StageError(
                f"after step {record.step} the held-out loss is {found.loss}",
                "Use a lower --learning-rate." if record.step else "Use another base: its weights are damaged.",
            )
        mean = round(sum(record.since) / len(record.since), 6) if record.since else None
        rate = learning_rate(record.step, self.steps, self.settings) if record.step else None
        point = Point(record.step, mean, found.loss, found.bits_per_byte, rate)
        if record.best is None or point.loss < record.best.loss:
            self.states.save_best(record.step, self.weights)
            record.best = point
        record.curve.append(point)
        record.since.clear()
        trained = f"loss {mean:.3f}, " if mean is not None else ""
        self.progress.say(
            f"step {point.step}: {trained}held-out {point.loss:.3f}, {point.bits_per_byte:.3f} bits per byte"
        )

    def _evaluations_since_best(self) -> int:
        best = self.record.best
        return sum(best is not None and point.step > best.step for point in self.record.curve)

    def _save(self) -> None:
        record = {"run": self.record.to_json(), "place": self.place.to_json()}
        best = self.record.best
        self.states.save(
            self.record.step, self.weights, self.optimizer.state_dict(), record, best.step if best else None
        )

    def _take_best(self) -> None:
        best, curve = self.record.best, self.record.curve
        assert best is not None  # every run begins with an evaluation
        if best.step != self.record.step:
            _load(self.weights, self.states.load_best(best.step))
            self.progress.say(f"kept the weights of step {best.step}, where the held-out loss was lowest")
        if best.step == 0:
            left = "the adapter changes nothing" if self.settings.adapts else "the model is as it was"
            self.progress.say(f"warning: no step lowered the held-out loss: {left}")
        first = curve[0]
        self.progress.say(
            f"held-out loss {first.loss:.3f} -> {best.loss:.3f}, "
            f"bits per byte {first.bits_per_byte:.3f} -> {best.bits_per_byte:.3f}"
        )


def _load(weights: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])


def _out_of_memory(settings: TrainSettings) -> StageError:
    tokens = settings.batch_size * settings.sequence_length
    last = {"full": "--method lora.", "lora": "--method qlora.", "qlora": "a smaller base."}[settings.method]
    if not settings.gradient_checkpointing:
        last = "--gradient-checkpointing."
    return StageError(f"the memory does not suffice for {tokens:,} tokens in one forward pass", SMALLER + last)
