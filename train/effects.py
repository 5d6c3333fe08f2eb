"""Which settings of a training do nothing beside others, and how what the user gave comes before a preset's."""

from __future__ import annotations

import math
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


def beneath(defaults: Mapping[str, Any], table: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """`flags`, and of `defaults`, such as a preset's, what neither they nor `table` of the settings file decide.

    A default gives way where it would do nothing, or where a training is shorter than its warm-up.
    """
    typed = {name: value for name, value in flags.items() if value is not None}
    given = {key.replace("-", "_"): value for key, value in table.items()} | typed
    without = idle({**defaults, **given})
    kept = {name: value for name, value in defaults.items() if name not in given and name not in without}
    if kept.get("warmup_steps", 0) > given.get("max_steps", math.inf):
        del kept["warmup_steps"]
    return {**kept, **typed}
