"""The runner for libraries with TVM's paged cache (`compile/caches/paged.py`), on any device: one sequence of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.library import Library
from serve.engine.runner import parts, refuse_unfit

SEQUENCE = 0


class PagedRunner:
    """See `serve/engine/runner.py` for the face."""

    def __init__(self, library: Library, context_size: int) -> None:
        self.library = library
        self.vocab_size, self.context_size = library.vocab_size, min(context_size, library.context_size)
        self._begin, self._end, self._take_back = (
            library.function(f"vm.builtin.kv_state_{name}") for name in ("begin_forward", "end_forward", "popn")
        )
        limits = (1, self.context_size, library.most_tokens, library.metadata["cache"]["page_size"])
        self._cache = library.vm["create_cache"](*(library.ffi.Shape((limit,)) for limit in limits))
        library.function("vm.builtin.kv_state_add_sequence")(self._cache, SEQUENCE)
        self._length = 0

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Write `ids` to the cache from `position` on; the logits `[V]` after the last of them."""
        self._go_to(ids, position)
        for part, _ in parts(ids, position, self.library.most_tokens):
            if len(part) == 1:
                logits = self._run("decode", part)
            else:
                logits = self._run("prefill", part, self.library.tensor(np.asarray([len(part) - 1], np.int32)))
        last: NDArray[np.float32] = logits[0]
        return last

    def score(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Like `forward`, with the logits `[len(ids), V]` after each."""
        self._go_to(ids, position)
        return np.concatenate([self._run("score", part) for part, _ in parts(ids, position, self.library.most_tokens)])

    def _go_to(self, ids: Sequence[int], position: int) -> None:
        """Take back what the cache holds from `position` on."""
        refuse_unfit(self, ids, position)
        if position > self._length:
            raise ValueError(f"the cache holds {self._length} tokens, and {position} were to be kept")
        if position < self._length:
            self._take_back(self._cache, SEQUENCE, self._length - position)
            self._length = position

    def _run(self, name: str, ids: Sequence[int], *more: Any) -> NDArray[np.float32]:
        library = self.library
        self._begin(self._cache, library.ffi.Shape((SEQUENCE,)), library.ffi.Shape((len(ids),)))
        logits = library.vm[name](library.tensor(np.asarray(ids, np.int32)), *more, self._cache, library.parameters)
        self._end(self._cache)
        self._length += len(ids)
        return library.array(logits)
