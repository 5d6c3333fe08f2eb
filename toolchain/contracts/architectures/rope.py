"""Rotary positions (Su et al. 2021, arXiv:2104.09864): inverse frequencies, as transformers derives them from a config.

The pair (d, d + D/2) of a head is turned by position · f[d], with f[d] = theta^(-2d/D) unless the config scales it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from toolchain.contracts.errors import UnsupportedArchitecture

THETA = 10000.0


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` says of rotary positions: `rope_parameters` (transformers 5) or `rope_scaling` (before)."""
    return dict(config.get("rope_parameters") or config.get("rope_scaling") or {})


def theta(config: Mapping[str, Any]) -> float:
    return float(settings(config).get("rope_theta") or config.get("rope_theta") or THETA)


def kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("rope_type") or settings.get("type") or "default")


def inverse_frequencies(config: Mapping[str, Any], head_size: int) -> tuple[float, ...]:
    """The frequencies `[D / 2]`, in radians a token.

    Raises UnsupportedArchitecture for kinds of scaling other than `linear` and `llama3`.
    """
    rope = settings(config)
    if float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedArchitecture("rotary positions on a part of each head are not supported")
    plain = [theta(config) ** (-2 * d / head_size) for d in range(head_size // 2)]
    try:
        if kind(rope) == "default":
            return tuple(plain)
        if kind(rope) == "linear":
            return tuple(frequency / float(rope["factor"]) for frequency in plain)
        if kind(rope) == "llama3":
            return tuple(_llama3(frequency, rope) for frequency in plain)
    except KeyError as error:
        raise UnsupportedArchitecture(f"the rope scaling in config.json lacks {error}") from None
    raise UnsupportedArchitecture(
        f"rope scaling of the kind '{kind(rope)}' is not supported", "Supported: default, linear, llama3."
    )


def _llama3(frequency: float, settings: Mapping[str, Any]) -> float:
    """Llama 3.1's scaling: long waves are stretched by `factor`, short ones kept, those between blended."""
    turns = float(settings["original_max_position_embeddings"]) * frequency / (2 * math.pi)
    low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return (1 - kept) * frequency / float(settings["factor"]) + kept * frequency
