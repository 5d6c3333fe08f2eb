"""The learning of a job: its dataset as batches, the loop over them, and what came of it as facts."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from train.bases import models
from train.job import Job
from train.run import loop, training_curve
from train.run.record import Record
from train.run.schedule import learning_rate
from train.samples import material, stream
from train.samples.material import Material
from train.settings import TrainSettings


def learn(job: Job, model: Any) -> Material:
    """Train `model`, leave it with the best weights, and note in the draft's facts what came of it.

    Raises ArtifactError for a dataset that cannot be read or has nothing to predict, and StageError as `loop.Run` does.
    """
    base, settings, cache = job.base, job.settings, job.states.cache
    if settings.objective == "chat":
        found = material.of_dialogues(base, job.dataset, settings, cache, job.progress)
    else:
        found = material.of_code(base, job.tokenizer, job.dataset, settings, cache)
    batches = stream.held_out_batches(found.held_out, found.measuring, settings.batch_size, settings.evaluate_sequences)
    steps = steps_for(found.tokens, found.room, settings, job.world.size)
    _tell(job, steps)
    if settings.gradient_checkpointing:
        models.recompute_activations(model)
    with job.room_for_the_base():
        losses = models.losses_of(model, settings, base.facts.window, job.world)
    run = loop.Run(
        losses=losses,
        stream=stream.BatchStream(found.documents, found.sampler, settings.batch_size),
        held_out=loop.HeldOut(batches, found.sampler.control),
        settings=settings,
        steps=steps,
        states=job.states,
        world=job.world,
        progress=job.progress,
        tracker=job.tracker,
    )
    record = run.train()
    curve = training_curve.points(record.losses, lambda step: learning_rate(step, steps, settings))
    job.draft.facts |= found.facts | _facts(record, job, model) | {"training_curve": curve}
    return found


def steps_for(tokens: int, length: int, settings: TrainSettings, processes: int = 1) -> int:
    """How many steps: `max_steps`, or fewer when `max_epochs` passes over so many tokens take fewer."""
    in_a_step = length * settings.batch_size * settings.gradient_accumulation * processes
    return max(1, min(settings.max_steps, math.ceil(settings.max_epochs * tokens / in_a_step)))


def _tell(job: Job, steps: int) -> None:
    """What becomes of the settings where the base, the dataset or the device has it otherwise."""
    base, settings = job.base, job.settings
    if settings.sequence_length > base.facts.context_size:
        job.progress.say(f"sequences have {base.facts.context_size} tokens, the context of {base.name}")
    if steps < settings.max_steps:
        job.progress.say(f"{steps} steps are {settings.max_epochs:g} passes over the dataset (--max-epochs)")
    if settings.asks_for("warmup_steps") and settings.warmup_steps > steps // 2:
        job.progress.say(f"the warm-up takes {steps // 2} steps, half of the training, and not {settings.warmup_steps}")
    if settings.optimizer == "paged_adamw_32bit" and job.world.device.type != "cuda":
        job.progress.say("optimizer: paged_adamw_32bit pages nothing here, its states are in main memory anyway")


def _facts(record: Record, job: Job, model: Any) -> dict[str, Any]:
    assert record.best is not None  # every run begins with an evaluation
    return {
        "fim": job.base.spec.to_json(),
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "tokens_seen": record.tokens,
        "steps": record.step,
        "processes": job.world.size,
        "held_out": {"start": asdict(record.curve[0]), "end": asdict(record.best)},
        "loss_curve": [asdict(point) for point in record.curve],
    }
