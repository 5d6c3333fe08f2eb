"""The training stage: a dataset and a base to an adapter, or with `--method full` to a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import extras, fim, manifest
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.manifest import Draft, Kind, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train.bases import Base
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.fim import Sampler
    from train.loop import Record
    from train.run_state import RunStates

RECIPE = 1


@dataclass(frozen=True)
class Job:
    """One training: the base, what it is trained on and how; where its states and facts go, and who hears of it."""

    base: Base
    dataset: Path
    settings: TrainSettings
    states: RunStates
    draft: Draft
    progress: Progress


def plan_train(dataset: Path, base: Base, settings: TrainSettings) -> Plan:
    """Fine-tune `base` on `dataset`.

    The adapter is in PEFT's layout; a checkpoint has the dtype of the base. Raises ArtifactError when `dataset` is not
    a dataset, and SettingsError for layers that the base does not have.
    """
    parents = (Parent(kind="dataset", digest=manifest.read(dataset, "dataset").digest, role="dataset"), base.parent)
    settings.check_layers(base.linear_layers, base.name)
    kind: Kind = "adapter" if settings.adapts else "checkpoint"
    if settings.method == "qlora":
        extras.need("bitsandbytes", "accelerate")
    plain = contract_settings.to_json(settings) | {"learning_rate": settings.peak_learning_rate}

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from train import models

        job = Job(base, dataset, settings, open_states(work, plan.key, progress), draft, progress)
        draft.facts |= {"name": base.name, "method": settings.method}
        if settings.adapts:
            _fine_tune_adapter(job)
        else:
            models.write_checkpoint(train_fully(job), base.folder, draft.path)

    plan = Plan(kind=kind, recipe=RECIPE, parents=parents, settings=plain, write=write)
    return plan


def open_states(work: Path, key: str, progress: Progress) -> RunStates:
    """Where the run that makes the artifact of this key keeps its states."""
    from train.run_state import RunStates

    states = RunStates(work, key)
    if states.replaced:
        progress.say("The run that was interrupted here had other data, base or settings: starting anew")
    return states


def train_fully(job: Job) -> Any:
    """Train every weight of the base: kept in float32 meanwhile, given back in their own dtype."""
    import torch

    from train import models

    facts, folder = job.base.facts, job.base.folder
    device, stored = models.best_device(), models.stored_dtype(folder)
    model = models.open_model(folder, torch.float32, device)
    _train(job, model)
    job.draft.facts |= {"family": facts.family, "parameters": facts.parameters, "context_size": facts.context_size}
    return model.to(stored).cpu()


def _fine_tune_adapter(job: Job) -> None:
    """Train an adapter over a base whose own weights stay as they are, and write it."""
    from train import models, quantization

    base, settings, device = job.base, job.settings, models.best_device()
    dtype = models.arithmetic(settings.dtype, device)
    quantized = settings.method == "qlora"
    model = models.open_model(base.folder, dtype, device, quantization.nf4(dtype) if quantized else None)
    if quantized:
        job.draft.facts["quantized_base"] = quantization.described(model)
    targets = settings.lora_target or base.facts.lora_targets
    job.draft.facts["adapted_layers"] = dict(sorted(models.adapted_layers(model, targets).items()))
    model = models.with_adapter(model, settings, targets, base.name)
    first = models.adapter_weights(model) if settings.init == "pissa" else None
    _train(job, model)
    models.write_adapter(model, first, job.draft.path)


def _train(job: Job, model: Any) -> None:
    """Run the loop over the dataset, and note in the draft's facts what came of it."""
    from train import loop, models, stream
    from train.dataset import open_texts

    settings, cache = job.settings, job.states.cache
    sampler, measuring = _samplers(job)
    texts, held_out_texts = open_texts(job.dataset, "train", cache), open_texts(job.dataset, "heldout", cache)
    batches = stream.held_out_batches(held_out_texts, measuring, settings.batch_size, settings.evaluate_sequences)
    steps = steps_for(stream.tokens_in(texts, sampler), sampler.length, settings)
    if steps < settings.max_steps:
        job.progress.say(f"{steps} steps are {settings.max_epochs:g} passes over the dataset (--max-epochs)")
    if settings.gradient_checkpointing:
        models.recompute_activations(model)
    run = loop.Run(
        model=model,
        stream=stream.BatchStream(texts, sampler, settings.batch_size),
        held_out=loop.HeldOut(batches, sampler.ids.control),
        settings=settings,
        steps=steps,
        states=job.states,
        dtype=models.arithmetic(settings.dtype, next(model.parameters()).device),
        progress=job.progress,
    )
    job.draft.facts |= _facts(run.train(), job, model)


def _samplers(job: Job) -> tuple[Sampler, Sampler]:
    """How files become samples to train on, and samples to measure with."""
    from train.fim import Sampler
    from train.tokenization import open_text_tokenizer

    base, settings = job.base, job.settings
    length = min(settings.sequence_length, base.facts.context_size)
    tokenizer = open_text_tokenizer(base.folder, base.spec.control_tokens)
    ids = fim.resolve(base.spec, tokenizer.tokenizer.token_to_id, where=str(base.folder / "tokenizer.json"))
    sampler = Sampler(tokenizer, ids, base.spec.orders, length, settings.fim_rate, settings.spm_rate, settings.seed)
    # Always the same share of each order, so that runs with other rates can be compared.
    return sampler, replace(sampler, fim_rate=1.0, spm_rate=0.5, seed=0)


def steps_for(tokens: int, length: int, settings: TrainSettings) -> int:
    """How many steps: `max_steps`, or fewer when `max_epochs` passes over so many tokens take fewer."""
    in_a_step = length * settings.batch_size * settings.gradient_accumulation
    return max(1, min(settings.max_steps, math.ceil(settings.max_epochs * tokens / in_a_step)))


def _facts(record: Record, job: Job, model: Any) -> dict[str, Any]:
    assert record.best is not None  # every run begins with an evaluation
    return {
        "fim": job.base.spec.to_json(),
        "fim_rate": job.settings.fim_rate,
        "spm_rate": job.settings.spm_rate,
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "tokens_seen": record.tokens,
        "steps": record.step,
        "held_out": {"start": asdict(record.curve[0]), "end": asdict(record.best)},
        "loss_curve": [asdict(point) for point in record.curve],
    }
