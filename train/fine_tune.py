"""The training stage: a dataset and a base to an adapter, or with `--method full` to a checkpoint."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import extras
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.chat import template
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.manifest import Draft, Kind, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train import added_tokens, memory
from train.bases import Base
from train.cuts import GRAMMARS
from train.dataset import CODE, DIALOGUES, read_manifest
from train.running import HERE, RunSettings
from train.settings import TrainSettings
from train.shape import check_shape

if TYPE_CHECKING:
    from train.distributed import World
    from train.loop import Record
    from train.material import Material
    from train.run_state import RunStates
    from train.tracking import Tracker

RECIPE = 2
HOLDS = {"fim": CODE, "chat": DIALOGUES}


@dataclass(frozen=True)
class Job:
    """One training: the base, what it is trained on and how; where its states and facts go, and who hears of it.

    `tokenizer` is the folder of the tokenizer, which may have tokens `added` to the base's; `facts` are those of the
    model that has them too.
    """

    base: Base
    added: dict[str, int]
    tokenizer: Path
    facts: Architecture
    dataset: Path
    settings: TrainSettings
    states: RunStates
    draft: Draft
    progress: Progress
    world: World
    tracker: Tracker


def plan_train(dataset: Path, base: Base, settings: TrainSettings, running: RunSettings = HERE) -> Plan:
    """Fine-tune `base` on `dataset`.

    The adapter is in PEFT's layout; a checkpoint has the dtype of the base. Raises ArtifactError when `dataset` is not
    a dataset, and SettingsError for layers that the base does not have.
    """
    if settings.objective == "chat":
        base = base.for_chat()
    parents = (
        Parent(kind="dataset", digest=read_manifest(dataset, HOLDS[settings.objective]).digest, role="dataset"),
        base.parent,
    )
    kind: Kind = "adapter" if settings.adapts else "checkpoint"
    check_base(settings, base)
    running.check()
    plain = contract_settings.to_json(settings) | {"learning_rate": settings.peak_learning_rate}

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from train.run_state import kept_for_resuming

        with memory.room_for("this training", memory.FREE_SOME), kept_for_resuming(work):
            job = begin(base, dataset, settings, running, plan, draft, work, progress)
            draft.facts |= {"name": base.name, "method": settings.method}
            if job.added:
                draft.facts |= {"added_tokens": job.added, "vocab_size": job.facts.vocab_size}
            if settings.adapts:
                _fine_tune_adapter(job)
            else:
                train_fully(job)

    plan = Plan(kind=kind, recipe=RECIPE, parents=parents, settings=plain, write=write)
    return plan


def check_base(settings: TrainSettings, base: Base) -> None:
    """Raise MissingExtra, SettingsError, FimTokenError or ArtifactError for what the settings need and is not there."""
    check_shape(settings, base.facts, base.name)
    if base.lacks and not settings.add_fim_tokens:
        raise base.fim_refusal()
    if settings.add_fim_tokens:
        added_tokens.refuse_none(base.lacks, base.name)
    if settings.add_fim_tokens and "lm_head" in settings.lora_target:
        raise SettingsError(
            "--add-fim-tokens trains rows of the head, and --lora-target lm_head all of it", "Use one of the two."
        )
    if settings.method == "qlora":
        extras.need("bitsandbytes", "accelerate")
    if settings.optimizer != "adamw":
        extras.need("bitsandbytes")
    if settings.cuts == "syntax":
        extras.need("tree_sitter", *(module for module, _ in GRAMMARS.values()))
    if settings.repository_context and base.spec.file_separator is None:
        raise SettingsError(
            f"--repository-context needs a base that was trained with a file separator, and {base.name} was not",
            "Leave it out, or use StarCoder2 or Qwen2.5-Coder.",
        )
    if settings.asks_for("spm_rate") and "spm" not in base.spec.orders:
        raise SettingsError(f"--spm-rate has no effect: {base.name} knows one order alone, PSM", "Leave it out.")
    if settings.objective == "chat":
        from train import material

        material.chat_sampler(base, settings)


def check_processes(settings: TrainSettings, processes: int) -> None:
    """Raise SettingsError for settings that several processes cannot train with."""
    if processes > 1 and settings.optimizer != "adamw":
        raise SettingsError(
            f"--optimizer {settings.optimizer} works on whole weights, and {processes} processes have parts of them",
            "Use --optimizer adamw, or one process.",
        )


def begin(
    base: Base,
    dataset: Path,
    settings: TrainSettings,
    running: RunSettings,
    plan: Plan,
    draft: Draft,
    work: Path,
    progress: Progress,
) -> Job:
    """The job of `plan`, with the states of its run in the folder `work`, among the processes that work on it.

    Raises SettingsError for a device that is not there, and when a run of something else was interrupted in `work`.
    """
    from train import distributed, models
    from train.run_state import Identity, RunStates
    from train.tracking import EventFiles, Nowhere

    world = distributed.join(models.device(running.device))
    check_processes(settings, world.size)
    if world.device.type == "mps" and settings.optimizer != "adamw":
        raise SettingsError(f"--optimizer {settings.optimizer} does not run on Apple's GPUs", "Use --optimizer adamw.")
    parents = {parent.role: parent.digest for parent in plan.parents}
    states = RunStates(work, Identity(plan.key, parents, plan.settings, world.size), world)
    kept = world.leads and running.track
    tracker = EventFiles(Path(kept) / f"{plan.kind}-{plan.key[:12]}") if kept else Nowhere()
    if not base.lacks:
        return Job(base, {}, base.folder, base.facts, dataset, settings, states, draft, progress, world, tracker)
    added, tokenizer = added_tokens.for_base(base), work / "tokenizer"
    if world.leads:
        added_tokens.write_tokenizer(base.folder, added.ids, tokenizer)
    world.wait()
    return Job(base, added.ids, tokenizer, added.facts, dataset, settings, states, draft, progress, world, tracker)


def train_fully(job: Job) -> None:
    """Train every weight of the base, kept in float32 meanwhile, and write them in their own dtype."""
    import torch

    from train import models, token_rows

    facts, folder, world = job.facts, job.base.folder, job.world
    stored = models.stored_dtype(folder)
    # Where there are others to share the float32 with, it is made of each one's share.
    opened = torch.float32 if world.size == 1 else stored
    dtype = models.arithmetic(job.settings.dtype, world.device)
    attention = models.attention_for(world.device, dtype, job.progress)
    with _room_for_the_base(job):
        model = models.open_model(folder, opened, world.device, attention)
        if job.added:
            token_rows.make_room(model, list(job.added.values()), facts.vocab_size)
    material = _train(job, model)
    job.draft.facts |= {"family": facts.family, "parameters": facts.parameters, "context_size": facts.context_size}
    with memory.room_for("the trained weights as a whole", memory.FREE_SOME):
        weights = models.whole_weights(model.to(stored), world)
        if world.leads:
            models.write_checkpoint(model, weights, job.tokenizer, job.draft.path)
            _write_template(material, job.draft.path)


def _fine_tune_adapter(job: Job) -> None:
    """Train an adapter over a base whose own weights stay as they are, and write it."""
    from train import models

    with _room_for_the_base(job):
        model = _with_adapter(job)
        start = models.adapter_weights(model, job.world) if job.settings.init == "pissa" else None
        first = {name: weight.clone() for name, weight in start.items()} if start else None
    material = _train(job, model)
    with memory.room_for("the adapter's weights", memory.FREE_SOME):
        weights = models.adapter_weights(model, job.world)
        if job.world.leads:
            models.write_adapter(model, weights, first, job.draft.path)
            if job.added:
                models.copy_tokenizer(job.tokenizer, job.draft.path)
            _write_template(material, job.draft.path)


def _with_adapter(job: Job) -> Any:
    """The base with a fresh adapter, and in the draft's facts which layers it adapts."""
    from train import models, quantization, token_rows

    base, settings, device = job.base, job.settings, job.world.device
    dtype = models.arithmetic(settings.dtype, device)
    quantized = quantization.nf4(dtype) if settings.method == "qlora" else None
    attention = models.attention_for(device, dtype, job.progress)
    model = models.open_model(base.folder, dtype, device, attention, quantized)
    tokens = list(job.added.values())
    if tokens:
        token_rows.make_room(model, tokens, job.facts.vocab_size)
    if quantized:
        quantization.keep_narrow(model, dtype)
        job.draft.facts["quantized_base"] = quantization.described(model)
    targets = settings.lora_target or base.facts.lora_targets
    job.draft.facts["adapted_layers"] = dict(sorted(models.adapted_layers(model, targets).items()))
    return models.with_adapter(model, settings, targets, base.name, tokens)


def _room_for_the_base(job: Job) -> AbstractContextManager[None]:
    return memory.room_for("the base's weights", job.states.changed(memory.fits_the_base(job.settings)))


def _write_template(material: Material, folder: Path) -> None:
    if material.template is not None:
        (folder / template.FILE).write_text(material.template, encoding="utf-8")


def _train(job: Job, model: Any) -> Material:
    """Run the loop over the dataset, and note in the draft's facts what came of it."""
    from train import loop, material, models, stream, training_curve

    base, settings, cache = job.base, job.settings, job.states.cache
    if settings.objective == "chat":
        found = material.of_dialogues(base, job.dataset, settings, cache, job.progress)
    else:
        found = material.of_code(base, job.tokenizer, job.dataset, settings, cache)
    batches = stream.held_out_batches(found.held_out, found.measuring, settings.batch_size, settings.evaluate_sequences)
    steps = steps_for(found.tokens, found.room, settings, job.world.size)
    if settings.sequence_length > base.facts.context_size:
        job.progress.say(f"sequences have {base.facts.context_size} tokens, the context of {base.name}")
    if steps < settings.max_steps:
        job.progress.say(f"{steps} steps are {settings.max_epochs:g} passes over the dataset (--max-epochs)")
    if settings.asks_for("warmup_steps") and settings.warmup_steps > steps // 2:
        job.progress.say(f"the warm-up takes {steps // 2} steps, half of the training, and not {settings.warmup_steps}")
    if settings.gradient_checkpointing:
        models.recompute_activations(model)
    if settings.optimizer == "paged_adamw_32bit" and job.world.device.type != "cuda":
        job.progress.say("optimizer: paged_adamw_32bit pages nothing here, its states are in main memory anyway")
    with _room_for_the_base(job):
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
    curve = training_curve.points(record.losses, lambda step: loop.learning_rate(step, steps, settings))
    job.draft.facts |= found.facts | _facts(record, job, model) | {"training_curve": curve}
    return found


def steps_for(tokens: int, length: int, settings: TrainSettings, processes: int = 1) -> int:
    """How many steps: `max_steps`, or fewer when `max_epochs` passes over so many tokens take fewer."""
    in_a_step = length * settings.batch_size * settings.gradient_accumulation * processes
    return max(1, min(settings.max_steps, math.ceil(settings.max_epochs * tokens / in_a_step)))


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
