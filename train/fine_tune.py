"""The training stage: a dataset and a base to an adapter, or with `--method full` to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import settings as contract_settings
from toolchain.contracts.chat import template
from toolchain.contracts.manifest import Draft, Kind, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train import memory, requirements
from train.bases.base import Base, copy_tokenizer
from train.job import Job, begin
from train.running import HERE, RunSettings
from train.samples.dataset import CODE, DIALOGUES, read_manifest
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.samples.material import Material

RECIPE = 2
HOLDS = {"fim": CODE, "chat": DIALOGUES}


def plan_train(dataset: Path, base: Base, settings: TrainSettings, running: RunSettings = HERE) -> Plan:
    """Fine-tune `base` on `dataset`.

    The adapter is in PEFT's layout; a checkpoint has the dtype of the base. Raises ArtifactError when `dataset` is not
    a dataset, SettingsError when it holds another kind of text, and as `requirements.check_base` does.
    """
    if settings.objective == "chat":
        base = base.for_chat()
    parents = (
        Parent(kind="dataset", digest=read_manifest(dataset, HOLDS[settings.objective]).digest, role="dataset"),
        base.parent,
    )
    kind: Kind = "adapter" if settings.adapts else "checkpoint"
    requirements.check_base(settings, base)
    running.check()
    plain = contract_settings.to_json(settings) | {"learning_rate": settings.peak_learning_rate}

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from train.run.states import kept_for_resuming

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


def train_fully(job: Job) -> None:
    """Train every weight of the base, kept in float32 meanwhile, and write them in their own dtype."""
    import torch

    from train import devices
    from train.bases import models, token_rows, writing
    from train.learning import learn

    facts, folder, world = job.facts, job.base.folder, job.world
    stored = models.stored_dtype(folder)
    # Where there are others to share the float32 with, it is made of each one's share.
    opened = torch.float32 if world.size == 1 else stored
    dtype = devices.arithmetic(job.settings.dtype, world.device)
    attention = devices.attention_for(world.device, dtype, job.progress)
    with job.room_for_the_base():
        model = models.open_model(folder, opened, world.device, attention)
        if job.added:
            token_rows.make_room(model, list(job.added.values()), facts.vocab_size)
    material = learn(job, model)
    job.draft.facts |= {"family": facts.family, "parameters": facts.parameters, "context_size": facts.context_size}
    with memory.room_for("the trained weights as a whole", memory.FREE_SOME):
        weights = writing.whole_weights(model.to(stored), world)
        if world.leads:
            writing.write_checkpoint(model, weights, job.tokenizer, job.draft.path)
            _write_template(material, job.draft.path)


def _fine_tune_adapter(job: Job) -> None:
    """Train an adapter over a base whose own weights stay as they are, and write it."""
    from train.bases import writing
    from train.learning import learn

    with job.room_for_the_base():
        model = _with_adapter(job)
        start = writing.adapter_weights(model, job.world) if job.settings.init == "pissa" else None
        first = {name: weight.clone() for name, weight in start.items()} if start else None
    material = learn(job, model)
    with memory.room_for("the adapter's weights", memory.FREE_SOME):
        weights = writing.adapter_weights(model, job.world)
        if job.world.leads:
            writing.write_adapter(model, weights, first, job.draft.path)
            if job.added:
                copy_tokenizer(job.tokenizer, job.draft.path)
            _write_template(material, job.draft.path)


def _with_adapter(job: Job) -> Any:
    """The base with a fresh adapter, and in the draft's facts which layers it adapts."""
    from train import devices
    from train.bases import models, quantization, token_rows

    base, settings, device = job.base, job.settings, job.world.device
    dtype = devices.arithmetic(settings.dtype, device)
    quantized = quantization.nf4(dtype) if settings.method == "qlora" else None
    attention = devices.attention_for(device, dtype, job.progress)
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


def _write_template(material: Material, folder: Path) -> None:
    if material.template is not None:
        (folder / template.FILE).write_text(material.template, encoding="utf-8")
