"""The one internal request and reply that every protocol is translated to and from, and how a request is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from toolchain.contracts.errors import UserError
from toolchain.contracts.tokenizer import clean

Finish = Literal["stop", "length", "cancelled"]
MOST_TOKENS = 512
MOST_STOPS, LONGEST_STOP = 32, 256
UNLIMITED = {
    "max_tokens": (-1,),
    "max_completion_tokens": (-1,),
    "n_predict": (-1, -2),
    "num_predict": (0, -1, -2),
}
"""Counts that in one dialect or another mean no limit of the client's."""


class BadRequest(UserError):
    """A request that cannot be answered; `field` names the part at fault."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class Refused(Exception):
    """A request that is not answered, with the status that says why and the part of the request at fault."""

    def __init__(
        self, status: int, message: str, field: str, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.kind, self.headers = status, field, kind, headers


@dataclass(frozen=True)
class CompletionRequest:
    """Text before and after the cursor; without a suffix, `prefix` is simply continued.

    `raw` text is continued as it comes, by no rule of completion and no deadline of the server's; None leaves it to
    whether there is a suffix, and False tells that an editor asks, whose cursor may stand at the end of a file.
    After `deadline_ms` the answer is what there is by then. `extra` are other files, as name and text. `ids`, where
    there are any, are the prompt itself, as tokens, in the place of all text. With `max_tokens` 0 the prompt is only
    read, so that the next one is answered sooner. A line that begins with fewer blanks than
    `least_indentation` ends the answer, raw text or not.
    """

    prefix: str
    suffix: str = ""
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    raw: bool | None = None
    deadline_ms: int | None = None
    extra: tuple[tuple[str, str], ...] = ()
    ids: tuple[int, ...] = ()
    least_indentation: int = 0

    @property
    def is_raw(self) -> bool:
        return bool(self.ids) or (not self.suffix if self.raw is None else self.raw)


@dataclass(frozen=True)
class Completion:
    """`finish` is why it ended: `stop` (the model or a stop string), `length`, or `cancelled`."""

    text: str
    finish: Finish
    prompt_tokens: int
    statistics: Statistics


def read_text(values: Mapping[str, Any], name: str) -> str:
    """A string field, clean."""
    value = values.get(name)
    if not isinstance(value, str):
        raise BadRequest(name, "a string is needed")
    return clean(value)


def read_flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false, or `default` for null and absent."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(name, "true or false is needed")
    return default if value is None else value


def read_list(values: Mapping[str, Any], name: str) -> list[Any]:
    """A list, or an empty one for null and absent."""
    value = values.get(name)
    if value is not None and not isinstance(value, list):
        raise BadRequest(name, "a list is needed")
    return value or []


def refuse(values: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Raise BadRequest for the first field that asks for what cannot be had; `reasons` say why, by the field's name."""
    for name, reason in reasons.items():
        if values.get(name):
            raise BadRequest(name, f"{reason}; leave it out")


def refuse_more_than_one(values: Mapping[str, Any], *names: str) -> None:
    """Raise BadRequest when one of the fields asks for several completions, or for the best of several."""
    for name in names:
        if values.get(name) not in (None, 1):
            raise BadRequest(name, "one completion at a time is computed; leave it out or give 1")


def read_number(values: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number field, or `default` for null and absent; anything outside `low`..`high` is an error."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(_as_float(value)):
        raise BadRequest(name, "a number is needed")
    if not low <= value <= high:
        raise BadRequest(name, f"{_as_float(value):g} is not between {low:g} and {high:g}")
    return float(value)


def read_max_tokens(values: Mapping[str, Any], name: str, default: int, most: int = MOST_TOKENS) -> int:
    """A count of tokens, at most `most`: null means the default, and so does what means no limit."""
    value = values.get(name)
    if value is None or (not isinstance(value, bool) and value in UNLIMITED.get(name, ())):
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise BadRequest(name, "a whole number of 1 or more is needed")
    if isinstance(value, float) and not value.is_integer():
        raise BadRequest(name, "a whole number of 1 or more is needed")
    return int(min(value, most))


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
    """How tokens are chosen; `do_sample: false` means greedy, a top_k or seed of -1 means none."""
    seed = None if values.get("seed") == -1 else values.get("seed")
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64):
        raise BadRequest("seed", "a whole number from 0 to 2^64 is needed")
    temperature = read_number(values, "temperature", defaults.temperature, 0, 100)
    top_k = read_number(values, "top_k", defaults.top_k, -1, 1e9)
    if top_k % 1:
        raise BadRequest("top_k", "a whole number is needed")
    return Sampling(
        temperature=temperature if read_flag(values, "do_sample", default=True) else 0.0,
        top_p=read_number(values, "top_p", defaults.top_p, 0, 1),
        top_k=max(int(top_k), 0),
        seed=seed,
        repetition_penalty=read_number(values, "repetition_penalty", defaults.repetition_penalty, 0.1, 10),
    )


def over(values: Mapping[str, Any], below: object) -> dict[str, Any]:
    """`values`, and what it lacks (or holds null for) from `below`, if that is an object at all."""
    given = {name: value for name, value in values.items() if value is not None}
    return {**below, **given} if isinstance(below, Mapping) else given


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no bound
        return math.inf if value > 0 else -math.inf
