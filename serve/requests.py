"""What every protocol asks of the completer, and what it gets back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from serve.engine.sampling import Sampling
from toolchain.contracts.errors import UserError

MAX_TOKENS = 1024
DEFAULT_MAX_TOKENS = 64
MAX_STOP_STRINGS = 32
MAX_STOP_LENGTH = 256
UNLIMITED = -1

FinishReason = Literal["stop", "length", "cancelled"]


class RequestError(UserError):
    """A request that cannot be answered. `where` names the field, `status` is the HTTP status that fits."""

    def __init__(
        self, message: str, next_step: str = "", *, where: str = "body", status: int = 422, kind: str = "validation"
    ) -> None:
        super().__init__(message, next_step)
        self.where = where
        self.status = status
        self.kind = kind


@dataclass(frozen=True)
class CompletionRequest:
    """Text around the cursor and how to continue it. Raises RequestError for values that make no sense.

    A `suffix` of None asks for plain continuation, left to right; an empty one says that nothing follows the cursor.
    """

    prefix: str
    suffix: str | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    """At most this many tokens; -1 is as many as there may be. More than the server's limit is cut to it."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        self._set("prefix", mend(self.prefix))
        self._set("suffix", None if self.suffix is None else mend(self.suffix))
        if self.max_tokens < UNLIMITED:
            raise RequestError(f"max_tokens is {self.max_tokens}", "Use 0 or more.", where="max_tokens")
        self._set("max_tokens", MAX_TOKENS if self.max_tokens == UNLIMITED else min(self.max_tokens, MAX_TOKENS))
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        self._set("top_k", max(self.top_k, 0))  # -1 means "off" to several clients
        if self.seed is not None:
            self._set("seed", self.seed % 2**64)
        stop = tuple(mend(text) for text in self.stop if text)
        if len(stop) > MAX_STOP_STRINGS:
            raise RequestError(
                f"there are {len(stop)} stop strings", f"Send {MAX_STOP_STRINGS} at most.", where="stop"
            )
        if any(len(text) > MAX_STOP_LENGTH for text in stop):
            raise RequestError(
                "a stop string is too long", f"Send {MAX_STOP_LENGTH} characters at most.", where="stop"
            )
        self._set("stop", stop)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.seed, self.repetition_penalty)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Timings:
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0


@dataclass(frozen=True)
class Completion:
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    """How many of the prompt's tokens were in the KV cache."""
    completion_tokens: int
    stopped_by_text: bool = False
    """Whether one of the request's stop strings ended it, rather than a token of the model's."""
    timings: Timings = field(default_factory=Timings)


def mend(text: str) -> str:
    """`text` with lone surrogates replaced: editors that cut by UTF-16 units send half a character at the edge."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise RequestError(f"{name} is {value}", f"Use a number from {low:g} to {high:g}.", where=name)
