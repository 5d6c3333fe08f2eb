"""The one internal request and reply that every protocol is translated to and from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from toolchain.contracts.errors import UserError

Finish = Literal["stop", "length", "cancelled"]
MOST_TOKENS = 512
MOST_STOPS, LONGEST_STOP = 32, 256


class BadRequest(UserError):
    """A request that cannot be answered; `field` names the part at fault."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


@dataclass(frozen=True)
class CompletionRequest:
    """Text before and after the cursor; without `fill`, `prefix` is simply continued."""

    prefix: str
    suffix: str = ""
    fill: bool = True
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """`finish` is why it ended: `stop` (the model or a stop string), `length`, or `cancelled`."""

    text: str
    finish: Finish
    prompt_tokens: int
    statistics: Statistics


def read_text(values: Mapping[str, Any], name: str) -> str:
    """A string field. Lone surrogates, which JSON can carry and UTF-8 cannot, become U+FFFD."""
    value = values.get(name)
    if not isinstance(value, str):
        raise BadRequest(name, "a string is needed")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_number(values: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number field, or `default` for null and absent; anything outside `low`..`high` is an error."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequest(name, "a finite number is needed")
    if not low <= value <= high:
        raise BadRequest(name, f"{value} is not between {low:g} and {high:g}")
    return float(value)


def read_max_tokens(values: Mapping[str, Any], name: str, default: int) -> int:
    """A count of tokens: -1 and null mean the default, more than the server allows is cut to that."""
    value = values.get(name)
    if value is None or value == -1:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 1:
        raise BadRequest(name, "a whole number of 1 or more is needed")
    return min(int(value), MOST_TOKENS)


def read_stop(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Stop strings: null, one string or a list."""
    value = values.get(name)
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequest(name, "a string or a list of strings is needed")
    if len(stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stops):
        raise BadRequest(name, f"at most {MOST_STOPS} stop strings of {LONGEST_STOP} characters are taken")
    return tuple(stop for stop in stops if stop)


def read_sampling(values: Mapping[str, Any], defaults: Sampling) -> Sampling:
    """Temperature, top_p, top_k and seed; `do_sample: false` means greedy."""
    seed = values.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise BadRequest("seed", "a whole number from 0 on is needed")
    temperature = read_number(values, "temperature", defaults.temperature, 0, 100)
    return Sampling(
        temperature=0.0 if values.get("do_sample") is False else temperature,
        top_p=read_number(values, "top_p", defaults.top_p, 0, 1),
        top_k=int(read_number(values, "top_k", defaults.top_k, 0, 1e9)),
        seed=seed,
    )
