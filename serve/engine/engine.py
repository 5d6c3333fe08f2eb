"""Generating tokens: prefill what the cache lacks, then decode one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.engine.cache import CachedIds
from serve.engine.runner import Runner
from serve.engine.sampling import Sampling, choose


@dataclass
class Statistics:
    """What one generation cost, in tokens and seconds."""

    reused: int = 0
    prefilled: int = 0
    generated: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0


class Engine:
    """One runner, one sequence at a time: callers wait for each other."""

    def __init__(self, runner: Runner, prefill_chunk: int = 128) -> None:
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
    ) -> Generator[int, None, None]:
        """The tokens after `prompt`, until one of `end_ids` (which is not given), `max_tokens` or the context's end.

        `cancelled` is asked before every step. Raises ValueError for a prompt that is empty or fills the context.
        """
        if not 0 < len(prompt) < self.runner.context_size:
            raise ValueError(f"a prompt of {len(prompt)} tokens does not fit a context of {self.runner.context_size}")
        count = statistics if statistics is not None else Statistics()
        draw = np.random.default_rng(sampling.seed)
        with self._turn:
            begun = time.monotonic()
            logits = self._prefill(prompt, count, cancelled)
            position = len(prompt)
            while logits is not None and count.generated < max_tokens:
                token = choose(logits, sampling, draw)
                count.generated += 1
                count.seconds = time.monotonic() - begun
                count.first_token_seconds = count.first_token_seconds or count.seconds
                if token in end_ids:
                    return
                yield token
                if position >= self.runner.context_size or count.generated >= max_tokens or cancelled():
                    return
                logits = self._forward([token], position)
                position += 1

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
