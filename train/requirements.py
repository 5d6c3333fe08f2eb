"""What a training needs of its base, of what is installed and of where it runs: what is not there is refused."""

from __future__ import annotations

from toolchain.contracts import extras
from toolchain.contracts.errors import SettingsError
from train.bases import added_tokens
from train.bases.base import Base
from train.samples.cuts import GRAMMARS
from train.settings import TrainSettings
from train.shape import check_shape


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
        from train.samples import material

        material.chat_sampler(base, settings)


def check_processes(settings: TrainSettings, processes: int) -> None:
    """Raise SettingsError for settings that several processes cannot train with."""
    if processes > 1 and settings.optimizer != "adamw":
        raise SettingsError(
            f"--optimizer {settings.optimizer} works on whole weights, and {processes} processes have parts of them",
            "Use --optimizer adamw, or one process.",
        )


def check_device(settings: TrainSettings, kind: str) -> None:
    """Raise SettingsError for settings that a device of this kind, such as `mps`, cannot train with."""
    if kind == "mps" and settings.optimizer != "adamw":
        raise SettingsError(f"--optimizer {settings.optimizer} does not run on Apple's GPUs", "Use --optimizer adamw.")
