"""Which settings of a training do nothing beside others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADAPTERS = ("lora_rank", "lora_alpha", "rslora", "dora", "init", "lora_dropout", "lora_target")
FILLING = ("fim_rate", "spm_rate", "cuts", "repository_context", "add_fim_tokens")


def idle(values: Mapping[str, Any]) -> dict[str, str]:
    """The settings that do nothing beside `values`, each with what makes it so; what is absent has its default."""
    found: dict[str, str] = {}
    if values.get("fim_rate") == 0:
        found |= dict.fromkeys(("spm_rate", "cuts"), "--fim-rate 0.0")
    if values.get("objective") == "chat":
        found |= dict.fromkeys(FILLING, "--objective chat")
    else:
        found["chat_template"] = "--objective fim"
    if values.get("method") == "full":
        found |= dict.fromkeys(ADAPTERS, "--method full")
    return found
