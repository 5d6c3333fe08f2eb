"""A stand-in for the model: the same face, a few hundred tokens, and answers that a test decides."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Answer = Callable[[Sequence[int], int], NDArray[np.float32]]


class ScriptedRunner:
    """Keeps the ids by position, as a KV cache would, and asks `answer` with all of them.

    So what the engine gets depends on every cached token: one that is stale or missing changes the outcome.
    """

    def __init__(self, vocab_size: int, answer: Answer, context_size: int = 256) -> None:
        self.vocab_size, self.context_size, self.answer = vocab_size, context_size, answer
        self.held: list[int] = []
        self.calls: list[tuple[tuple[int, ...], int]] = []
        self.seconds_a_call = 0.0

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        assert ids, "nothing to compute"
        assert position <= len(self.held), f"a gap in the cache: {position} after {len(self.held)}"
        assert position + len(ids) <= self.context_size, "over the context"
        assert all(0 <= token < self.vocab_size for token in ids)
        self.calls.append((tuple(ids), position))
        self.held[position:] = ids
        time.sleep(self.seconds_a_call)
        return self.answer(self.held, self.vocab_size)


def says(reply: Sequence[int], end: int) -> Answer:
    """Continue with `reply` wherever the text stands in it, then with `end`."""

    def answer(held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        said = next(n for n in range(len(reply), -1, -1) if list(held[len(held) - n :]) == list(reply[:n]))
        logits = np.zeros(vocab_size, np.float32)
        logits[reply[said] if said < len(reply) else end] = 30
        return logits

    return answer


def repeats(token: int) -> Answer:
    """Never end."""

    def answer(held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        logits = np.zeros(vocab_size, np.float32)
        logits[token] = 30
        return logits

    return answer


def any_tokens(held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
    """Something that only the same tokens in the same places give again."""
    seed = zlib.crc32(np.asarray(held, np.int64).tobytes())
    return np.random.default_rng(seed).normal(0, 3, vocab_size).astype(np.float32)


def fails(held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
    raise RuntimeError("at /home/user/secret.py")
