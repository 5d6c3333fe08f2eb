"""The training loop, the same for LoRA and for every weight: whatever requires a gradient is trained.

The weights that are kept are those of the best held-out loss. Nothing random is carried from step to step: batches come
from a stream whose place is saved, and dropout draws from the seed and the step's number; so a run that was killed and
resumed ends with the very weights of an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from toolchain.contracts.errors import StageError
from toolchain.contracts.progress import Progress
from train.devices import peak_memory
from train.distributed import World
from train.memory import fits_a_step, fits_the_base, lacking, too_little
from train.run import optimizer
from train.run.loss import Losses, Score, score
from train.run.record import Point, Record
from train.run.schedule import learning_rate
from train.run.states import RunStates
from train.run.stopping import Wish, noted
from train.run.tracking import Nowhere, Tracker
from train.samples.packing import Batch
from train.samples.stream import BatchStream, Place
from train.settings import TrainSettings


@dataclass(frozen=True)
class HeldOut:
    """What a model is measured with while it is trained."""

    batches: Sequence[Batch]
    control: frozenset[int]


@dataclass
class Run:
    """A training of at most `steps` steps."""

    losses: Losses
    stream: BatchStream
    held_out: HeldOut
    settings: TrainSettings
    steps: int
    states: RunStates
    world: World
    progress: Progress
    tracker: Tracker = field(default_factory=Nowhere)

    def __post_init__(self) -> None:
        self.weights: dict[str, Tensor] = {n: p for n, p in self.losses.named_parameters() if p.requires_grad}
        device = self.world.device
        self.held_out = HeldOut([batch.to(device) for batch in self.held_out.batches], self.held_out.control)
        self.optimizer = optimizer.make(self.weights, self.settings)
        # Sums of floats depend on how they are split among threads.
        self.record = Record(threads=torch.get_num_threads())
        self.place = self.stream.place()
        self.updating = False
        self.wish, self.stopping = Wish(), False

    def train(self) -> Record:
        """Train the model, and leave it with the weights of the best evaluation.

        Raises StageError when the loss is not finite any more, memory does not suffice, or a state cannot be saved.
        """
        threads = torch.get_num_threads()
        try:
            self._resume()
            with noted(self.world.size > 1) as self.wish:
                return self._to_the_end()
        except Exception as error:  # libraries have no class in common for too little memory
            if lack := lacking(error):
                raise self._too_little(lack) from None
            raise
        finally:
            torch.set_num_threads(threads)

    def _too_little(self, lack: str) -> StageError:
        settings = self.settings
        if self.updating:
            fits = self.states.changed(fits_the_base(settings))
            return too_little(lack, "what the optimizer knows of each weight", fits)
        tokens = settings.batch_size * settings.sequence_length
        fits = self.states.changed(fits_a_step(settings, self.world))
        return too_little(lack, f"{tokens:,} tokens in one forward pass", fits)

    def _resume(self) -> None:
        state = self.states.newest()
        if state is not None:
            self.record = Record.from_json(state.record["run"])
            self.place = Place.from_json(state.record["place"])
            self.stream.resume(self.place)
            optimizer.prepare(self.optimizer, self.record.step)
            self.states.load(state, self._tensors())
            if state.damage:
                self.progress.say(f"a newer state is left out: {state.damage}")
            self.progress.say(f"Resuming after step {self.record.step} of {self.steps}")
        torch.set_num_threads(self.record.threads)

    def _to_the_end(self) -> Record:
        record, settings = self.record, self.settings
        self.losses.train()
        self.progress.start("Training", self.steps, "steps")
        self.progress.advance(record.step)
        self.tracker.begin(after=record.step)
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
                self._tell(loss, (record.tokens - begun) / max(time.monotonic() - clock, 1e-9))
                self.progress.advance()
                if self.stopping:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            # Other processes may be at another step, unless all are stopping after this one.
            if not self.updating and (self.world.size == 1 or self.stopping):
                self._save()
                self.progress.say(f"saved after step {record.step} of {self.steps}")
            raise
        finally:
            self.tracker.end()
        self.progress.finish()
        self._take_best()
        return record

    def _tell(self, loss: float, speed: float) -> None:
        """What is known after a step: shown, and kept for curves."""
        step, memory = self.record.step, (peak_memory(self.world.device) or 0) / 1e9
        rate = learning_rate(step, self.steps, self.settings)
        shown = {
            "loss": f"{loss:.3f}",
            "held-out": f"{self.record.curve[-1].loss:.3f}",
            "learning rate": f"{rate:.2e}",
            "tokens/s": f"{speed:,.0f}",
        }
        self.progress.table(shown | ({"memory": f"{memory:.2f} GB"} if memory else {}))
        values = {"loss/training": loss, "learning rate": rate, "tokens per second": speed}
        self.tracker.point(step, values | ({"memory in GB": memory} if memory else {}))

    def _step(self) -> float:
        """One update, with the mean loss over all tokens of all its batches.

        Every process draws the same batches and takes its share of them.
        """
        step, world = self.record.step + 1, self.world
        torch.manual_seed((self.settings.seed * 1_000_003 + step) * world.size + world.rank)
        batches = [self.stream.next() for _ in range(self.settings.gradient_accumulation * world.size)]
        predicted = sum(batch.predicted for batch in batches)
        own = 0.0
        for batch in batches[world.rank :: world.size]:
            # Sharding takes the mean of the processes' gradients, and the loss is a sum over them.
            loss = self.losses(batch.to(world.device), world.size / predicted)
            torch.autograd.backward(loss)
            own += float(loss.detach()) / world.size
        total, wishes = world.sums(own, float(self.wish.came))
        norm: Any = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_gradient_norm)
        norm = norm.full_tensor() if world.size > 1 else norm
        if not (math.isfinite(total) and bool(norm.isfinite())):
            raise StageError(
                f"at step {step} the loss is {total} and the gradient's norm {float(norm)}",
                self.states.changed(
                    f"Use a lower --learning-rate than {self.settings.peak_learning_rate:g} or more --warmup-steps."
                ),
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.settings)
        self.updating = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.record.step = step
        self.record.tokens += sum(batch.tokens for batch in batches)
        self.record.losses.append(total)
        self.place = self.stream.place()
        self.stopping = wishes > 0
        self.updating = False
        return total

    def _evaluate(self) -> None:
        found: Score = score(self.losses, self.held_out.batches, self.held_out.control, self.world)
        record = self.record
        if not math.isfinite(found.loss):
            raise StageError(
                f"after step {record.step} the held-out loss is {found.loss}",
                self.states.changed("Use a lower --learning-rate.")
                if record.step
                else "Use another base: its weights are damaged.",
            )
        since = record.losses[record.curve[-1].step if record.curve else 0 :]
        mean = round(sum(since) / len(since), 6) if since else None
        rate = learning_rate(record.step, self.steps, self.settings) if record.step else None
        point = Point(record.step, mean, found.loss, found.bits_per_byte, rate)
        better = record.best is None or point.loss < record.best.loss
        if better:
            self.states.save_best(record.step, self.weights)
        self.updating = True
        record.best = point if better else record.best
        record.curve.append(point)
        self.updating = False
        self.tracker.point(point.step, {"loss/held-out": point.loss, "bits per byte": point.bits_per_byte})
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
        self.tracker.save()
        self.states.save(self.record.step, self._tensors(), record, best.step if best else None)

    def _tensors(self) -> dict[str, Tensor]:
        """Weights and what the optimizer knows of each, by name."""
        return {**self.weights, **optimizer.states(self.optimizer, self.weights)}

    def _take_best(self) -> None:
        best, curve = self.record.best, self.record.curve
        assert best is not None  # every run begins with an evaluation
        if best.step != self.record.step:
            self.states.load_best(best.step, self.weights)
            self.progress.say(f"kept the weights of step {best.step}, where the held-out loss was lowest")
        if best.step == 0:
            left = "the adapter changes nothing" if self.settings.adapts else "the model is as it was"
            self.progress.say(f"warning: no step lowered the held-out loss: {left}")
        first = curve[0]
        self.progress.say(
            f"held-out loss {first.loss:.3f} -> {best.loss:.3f}, "
            f"bits per byte {first.bits_per_byte:.3f} -> {best.bits_per_byte:.3f}"
        )
