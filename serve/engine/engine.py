"""Generating tokens: prefill what the cache lacks, then decode one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from serve.engine.cache import CachedIds
from serve.engine.runner import Runner
from serve.engine.sampling import Sampling, choose

Ending = Literal["end_token", "length", "cancelled"]


@dataclass
class Statistics:
    """What one generation cost, in tokens and seconds, and why it ended; filled while it runs."""

    reused: int = 0
    prefilled: int = 0
    generated: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    ending: Ending = "cancelled"


class Beginning(Protocol):
    """What a generation has to begin with, as a token may end a prompt that was only the beginning of another."""

    def allowed(self) -> NDArray[np.int64] | None:
        """The ids that may come next; None when all may."""
        ...

    def take(self, token: int) -> bool:
        """`token` was chosen: whether it adds anything, and is counted."""
        ...


class Engine:
    """One runner, one sequence at a time: callers wait for each other."""

    def __init__(self, runner: Runner, prefill_chunk: int = 128) -> None:
        """`prefill_chunk` is how many tokens are computed between two looks at whether the client is still there."""
        if prefill_chunk < 1:
            raise ValueError(f"a prefill chunk of {prefill_chunk} tokens computes nothing")
        self.runner = runner
        self._chunk = prefill_chunk
        self._cached = CachedIds()
        self._turn = threading.Lock()

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        end_ids: frozenset[int],
        cancelled: Callable[[], bool] = lambda: False,
        statistics: Statistics | None = None,
        beginning: Beginning | None = None,
    ) -> Generator[int, None, None]:
        """The tokens after `prompt`, until one of `end_ids` (which is not given), `max_tokens` or the context's end.

        `cancelled` is asked before every step. With `max_tokens` 0 the prompt is computed all the same, which warms
        the cache. `beginning` is what the tokens have to begin with. Raises ValueError for a prompt that is empty or
        fills the context.
        """
        if not 0 < len(prompt) < self.runner.context_size:
            raise ValueError(f"a prompt of {len(prompt)} tokens does not fit a context of {self.runner.context_size}")
        count = statistics if statistics is not None else Statistics()
        draw = np.random.default_rng(sampling.seed)
        seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        with self._turn:
            begun = time.monotonic()
            logits = self._prefill(prompt, count, cancelled)
            count.first_token_seconds = count.seconds = time.monotonic() - begun
            if logits is None:
                return
            position = len(prompt)
            while count.generated < max_tokens and position < self.runner.context_size:
                if cancelled():
                    return
                token = choose(logits, sampling, draw, seen, beginning.allowed() if beginning else None)
                count.generated += beginning.take(token) if beginning else 1
                count.seconds = time.monotonic() - begun
                if token in end_ids:
                    count.ending = "end_token"
                    return
                seen.add(token)
                yield token
                position += 1
                if count.generated < max_tokens and position < self.runner.context_size and not cancelled():
                    logits = self._forward([token], position - 1)
            count.ending = "length"

    def _prefill(
        self, prompt: Sequence[int], count: Statistics, cancelled: Callable[[], bool]
    ) -> NDArray[np.float32] | None:
        """Compute what the cache lacks of `prompt`, in chunks; None when cancelled on the way."""
        count.reused = self._cached.reusable(prompt)
        logits = None
        for at in range(count.reused, len(prompt), self._chunk):
            if cancelled():
                return None
            part = prompt[at : at + self._chunk]
            logits = self._forward(part, at)
            count.prefilled += len(part)
        return logits

    def _forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        # Should the runner fail, what it may have overwritten must not count as cached.
        self._cached.forget(position)
        logits = self.runner.forward(ids, position)
        self._cached.write(ids, position)
        return logits
