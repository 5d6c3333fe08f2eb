"""The training stage: a dataset and a base to an adapter, or with `--method full` to a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.contracts import fim, manifest
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.manifest import Draft, Kind, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from train.bases import Base
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.loop import Record
    from train.run_state import RunStates

RECIPE = 1


def plan_train(dataset: Path, base: Base, settings: TrainSettings) -> Plan:
    """Fine-tune `base` on `dataset`. Raises ArtifactError when `dataset` is not a dataset.

    The adapter is in PEFT's layout; a checkpoint has the dtype of the base.
    """
    parents = (Parent(kind="dataset", digest=manifest.read(dataset, "dataset").digest, role="dataset"), base.parent)
    kind: Kind = "adapter" if settings.method == "lora" else "checkpoint"
    plain = contract_settings.to_json(settings) | {"learning_rate": settings.peak_learning_rate}
    key = manifest.key_of(kind, RECIPE, parents, plain)

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from train import models

        states = open_states(work, key, progress)
        draft.facts |= {"name": base.name, "method": settings.method}
        if settings.method == "lora":
            model = _fine_tune_adapter(base, dataset, settings, states, draft, progress)
            models.write_adapter(model, draft.path)
        else:
            model = train_fully(base.folder, base.facts, base.spec, dataset, settings, states, draft, progress)
            models.write_checkpoint(model, base.folder, draft.path)

    return Plan(kind=kind, recipe=RECIPE, parents=parents, settings=plain, write=write)


def open_states(work: Path, key: str, progress: Progress) -> RunStates:
    """Where the run that makes the artifact of this key keeps its states."""
    from train.run_state import RunStates

    states = RunStates(work, key)
    if states.replaced:
        progress.say("The run that was interrupted here had other data, base or settings: starting anew")
    return states


def train_fully(
    folder: Path,
    facts: Architecture,
    spec: fim.FimSpec,
    dataset: Path,
    settings: TrainSettings,
    states: RunStates,
    draft: Draft,
    progress: Progress,
) -> Any:
    """Train every weight of the checkpoint in `folder`: kept in float32 meanwhile, given back in their own dtype."""
    import torch

    from train import models

    device, stored = models.best_device(), models.stored_dtype(folder)
    model = models.open_model(folder, torch.float32, device)
    _train(model, folder, facts, spec, dataset, settings, states, draft, progress)
    draft.facts |= {"family": facts.family, "parameters": facts.parameters, "context_size": facts.context_size}
    return model.to(stored).cpu()


def _fine_tune_adapter(
    base: Base, dataset: Path, settings: TrainSettings, states: RunStates, draft: Draft, progress: Progress
) -> Any:
    from train import models

    device = models.best_device()
    model = models.open_model(base.folder, models.arithmetic(settings.dtype, device), device)
    targets = settings.lora_target or base.facts.lora_targets
    draft.facts["adapted_layers"] = dict(sorted(models.adapted_layers(model, targets).items()))
    model = models.with_adapter(model, settings, targets, base.name)
    _train(model, base.folder, base.facts, base.spec, dataset, settings, states, draft, progress)
    return model


def _train(
    model: Any,
    folder: Path,
    facts: Architecture,
    spec: fim.FimSpec,
    dataset: Path,
    settings: TrainSettings,
    states: RunStates,
    draft: Draft,
    progress: Progress,
) -> None:
    """Run the loop over the dataset, and note in the draft's facts what came of it."""
    from train import loop, models, stream
    from train.dataset import open_texts
    from train.fim import Sampler
    from train.tokenization import open_text_tokenizer

    length = min(settings.sequence_length, facts.context_size)
    tokenizer = open_text_tokenizer(folder, spec.control_tokens)
    ids = fim.resolve(spec, tokenizer.tokenizer.token_to_id, where=str(folder / "tokenizer.json"))
    sampler = Sampler(tokenizer, ids, spec.orders, length, settings.fim_rate, settings.spm_rate, settings.seed)
    # Always the same share of each order, so that runs with other rates can be compared.
    measuring = Sampler(tokenizer, ids, spec.orders, length, fim_rate=1.0, spm_rate=0.5, seed=0)
    train_texts = open_texts(dataset, "train", states.cache)
    held_out_texts = open_texts(dataset, "heldout", states.cache)
    held_out = loop.HeldOut(
        stream.held_out_batches(held_out_texts, measuring, settings.batch_size, settings.evaluate_sequences),
        ids.control,
    )
    steps = steps_for(stream.tokens_in(train_texts, sampler), length, settings)
    if steps < settings.max_steps:
        progress.say(f"{steps} steps are {settings.max_epochs:g} passes over the dataset (--max-epochs)")
    if settings.gradient_checkpointing:
        models.recompute_activations(model)
    record = loop.train(
        model=model,
        stream=stream.BatchStream(train_texts, sampler, settings.batch_size),
        held_out=held_out,
        settings=settings,
        steps=steps,
        states=states,
        dtype=models.arithmetic(settings.dtype, next(model.parameters()).device),
        progress=progress,
    )
    draft.facts |= _facts(record, spec, settings, model)


def steps_for(tokens: int, length: int, settings: TrainSettings) -> int:
    """How many steps: `max_steps`, or fewer when `max_epochs` passes over so many tokens take fewer."""
    in_a_step = length * settings.batch_size * settings.gradient_accumulation
    return max(1, min(settings.max_steps, math.ceil(settings.max_epochs * tokens / in_a_step)))


def _facts(record: Record, spec: fim.FimSpec, settings: TrainSettings, model: Any) -> dict[str, Any]:
    assert record.best is not None  # every run begins with an evaluation
    return {
        "fim": spec.to_json(),
        "fim_rate": settings.fim_rate,
        "spm_rate": settings.spm_rate,
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "tokens_seen": record.tokens,
        "steps": record.step,
        "held_out": {"start": asdict(record.curve[0]), "end": asdict(record.best)},
        "loss_curve": [asdict(point) for point in record.curve],
    }
