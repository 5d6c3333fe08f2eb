"""Model families: what planning, training, FIM and compiling need to know, read from Hugging Face's `config.json`.

One module a family; each gives `MODEL_TYPE` and `read(config)`. `compile/architectures/` has its counterpart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolchain.contracts.architectures import gpt_bigcode, llama, qwen2, starcoder2
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError, UnsupportedArchitecture

Reader = Callable[[dict[str, Any]], Architecture]
FAMILIES: dict[str, Reader] = {family.MODEL_TYPE: family.read for family in (gpt_bigcode, llama, qwen2, starcoder2)}


def read(checkpoint: Path) -> Architecture:
    """The facts of the checkpoint in Hugging Face's layout at `checkpoint`.

    Raises ArtifactError when there is no readable `config.json`, UnsupportedArchitecture for other families.
    """
    path = checkpoint / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{checkpoint} has no config.json", "Name a checkpoint in Hugging Face's layout.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "Mend or replace the file.") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} holds no JSON object", "Mend or replace the file.")
    return from_config(config, where=str(checkpoint))


def from_config(config: dict[str, Any], where: str = "this checkpoint") -> Architecture:
    """The facts in a parsed `config.json`."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnsupportedArchitecture(
            f"{where} has the architecture '{family}', which is not supported", f"Supported: {', '.join(FAMILIES)}."
        )
    try:
        facts = FAMILIES[family](config)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnsupportedArchitecture(f"the config.json of {where} holds a value of the wrong type ({error})") from None
    if not all(math.isfinite(number) and number > 0 for number in (facts.norm_epsilon, *facts.rope)):
        raise UnsupportedArchitecture(
            f"the config.json of {where} gives an epsilon or rotary positions that are no positive numbers",
            "Use the config.json that belongs to the checkpoint.",
        )
    return facts
