"""What stands in for the usual defaults beneath what the user gave: a preset's values, or those after `scratch`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from train.effects import idle


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
