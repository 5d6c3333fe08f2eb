"""What the shape of a base allows of the settings of a training; `config.json` is enough to know it."""

from __future__ import annotations

from toolchain.contracts.architectures import linear
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import check
from train.settings import TrainSettings


def check_shape(settings: TrainSettings, facts: Architecture, base: str) -> None:
    """Raise SettingsError for layers, ranks or lengths that the base of this name has no room for.

    Sequences of the default length are cut to a shorter context; those of any other have to fit.
    """
    context = facts.context_size
    if settings.asks_for("sequence_length") and settings.sequence_length > context:
        raise SettingsError(
            f"--sequence-length {settings.sequence_length} is more than the {context} positions of {base}",
            f"Use {context} or fewer.",
        )
    most = context // 2
    check("--repository-context", settings.repository_context, settings.repository_context <= most, f"at most {most}")
    if settings.adapts:
        _check_adapter(settings, facts, base)


def _check_adapter(settings: TrainSettings, facts: Architecture, base: str) -> None:
    layers = linear.adaptable(facts)
    names = {layer.name for layer in layers}
    if unknown := [name for name in settings.lora_target if name not in names]:
        raise SettingsError(
            f"--lora-target: no layer of {base} is called {', '.join(unknown)}",
            f"It has: {', '.join(sorted(names))}.",
        )
    targets = settings.lora_target or facts.lora_targets
    ranks = [layer.full_rank for layer in layers if layer.name in targets]
    # A lower rank than another layer's is only wasteful, but PiSSA takes as many principal components of each.
    most = min(ranks) if settings.init == "pissa" else max(ranks)
    if settings.lora_rank > most:
        raise SettingsError(
            f"--lora-rank {settings.lora_rank} is more than the rank that the adapted layers of {base} can have",
            f"Use {most} or less.",
        )
