"""The loop: prefill what the cache lacks, then one token at a time until something ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve.engine.cache import CachedIds
from serve.engine.runner import Runner
from serve.engine.sampling import Sampling, pick

Ending = Literal["end_token", "length", "cancelled"]


@dataclass
class Statistics:
    """What one generation cost; filled while it runs."""

    reused: int = 0
    """Prompt tokens that were in the KV cache."""

    prefilled: int = 0
    """Prompt tokens that were computed."""

    generated: int = 0
    """Tokens that were given out."""

    first_token_seconds: float = 0.0
    """From the start to the first token, or to the end if none came."""

    total_seconds: float = 0.0

    ending: Ending = "cancelled"
    """Why it ended; 'cancelled' also when the caller stopped listening."""


def never() -> bool:
    return False


class Engine:
    """A runner and what its cache holds. One sequence at a time."""

    def __init__(self, runner: Runner, prefill_chunk: int = 128) -> None:
        """`prefill_chunk` is the number of prompt tokens between two looks at whether the caller has left."""
        self._runner = runner
        self._chunk = prefill_chunk
        self._cached = CachedIds()
        self._busy = threading.Lock()

    @property
    def context_size(self) -> int:
        return self._runner.context_size

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        end_ids: Collection[int] = (),
        cancelled: Callable[[], bool] = never,
        statistics: Statistics | None = None,
    ) -> Generator[int, None, None]:
        """The ids that follow the prompt, without the one of `end_ids` that ended them.

        Prompt and completion together never exceed the context. With `max_tokens` 0 the prompt is computed all the
        same, which warms the cache. Raises ValueError for a prompt that is empty or too long, and RuntimeError when
        another generation is still under way.
        """
        if not 0 < len(prompt_ids) <= self.context_size:
            raise ValueError(f"{len(prompt_ids)} prompt tokens do not fit a context of {self.context_size}")
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the engine generates one sequence at a time")
        statistics = statistics or Statistics()
        begun = time.perf_counter()
        try:
            yield from self._generate(prompt_ids, sampling, max_tokens, end_ids, cancelled, statistics, begun)
        finally:
            statistics.total_seconds = time.perf_counter() - begun
            if not statistics.generated:
                statistics.first_token_seconds = statistics.total_seconds
            self._busy.release()

    def _generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        end_ids: Collection[int],
        cancelled: Callable[[], bool],
        statistics: Statistics,
        begun: float,
    ) -> Generator[int, None, None]:
        logits = self._prefill(prompt_ids, cancelled, statistics)
        if logits is None:
            return
        position = len(prompt_ids)
        limit = min(max_tokens, self.context_size - position)
        random = sampling.random()
        seen = set(prompt_ids) if sampling.repetition_penalty != 1.0 else set()
        while statistics.generated < limit:
            if cancelled():
                return
            token = pick(logits, sampling, random, seen)
            if token in end_ids:
                statistics.ending = "end_token"
                return
            statistics.generated += 1
            if statistics.generated == 1:
                statistics.first_token_seconds = time.perf_counter() - begun
            yield token
            seen.add(token)
            if statistics.generated < limit:
                logits = self._forward([token], position)
                position += 1
        statistics.ending = "length"

    def _prefill(
        self, prompt_ids: Sequence[int], cancelled: Callable[[], bool], statistics: Statistics
    ) -> NDArray[np.float32] | None:
        """The logits after the prompt, or None when cancelled."""
        statistics.reused = position = self._cached.reusable(prompt_ids)
        logits = None
        while position < len(prompt_ids):
            if cancelled():
                return None
            chunk = prompt_ids[position : position + self._chunk]
            logits = self._forward(chunk, position)
            position += len(chunk)
            statistics.prefilled += len(chunk)
        return logits

    def _forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        # Cut before, extend after: should the runner fail in between, nothing half-written is believed.
        self._cached.cut(position)
        logits = self._runner.forward(ids, position)
        self._cached.extend(ids)
        return logits
