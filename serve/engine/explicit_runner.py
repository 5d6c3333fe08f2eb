"""The runner for libraries whose cache is two tensors (`compile/caches/explicit.py`): one sequence on the processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.library import Library, zeros
from serve.engine.runner import parts, refuse_unfit
from toolchain.contracts.errors import ArtifactError


class ExplicitRunner:
    """See `serve/engine/runner.py` for the face."""

    def __init__(self, library: Library, context_size: int) -> None:
        self.library = library
        self.vocab_size, self.context_size = library.vocab_size, min(context_size, library.context_size)
        self._cache = self._make_cache()
        self._prefill, self._decode, self._score = (library.vm[name] for name in ("prefill", "decode", "score"))

    def forward(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Write `ids` to the cache from `position` on; the logits `[V]` after the last of them."""
        refuse_unfit(self, ids, position)
        for part, at in parts(ids, position, self.library.most_tokens):
            logits = self._run(self._decode if len(part) == 1 else self._prefill, part, at)
        last: NDArray[np.float32] = logits[0]
        return last

    def score(self, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        """Like `forward`, with the logits `[len(ids), V]` after each."""
        refuse_unfit(self, ids, position)
        every = parts(ids, position, self.library.most_tokens)
        return np.concatenate([self._run(self._score, part, at) for part, at in every])

    def _run(self, function: Any, ids: Sequence[int], position: int) -> NDArray[np.float32]:
        library = self.library
        where = library.ffi.Shape((position,))
        return library.array(
            function(library.tensor(np.asarray(ids, np.int32)), where, *self._cache, library.parameters)
        )

    def _make_cache(self) -> list[Any]:
        """Keys and values of all layers, zeroed, for `context_size` tokens. Raises ArtifactError without the room."""
        said = self.library.metadata["cache"]
        blocks = -(-self.context_size // said["block"])
        shapes = (tuple(blocks if axis == "blocks" else axis for axis in said[name]) for name in ("keys", "values"))
        try:
            return [self.library.tensor(zeros(shape, said["dtype"])) for shape in shapes]
        except MemoryError as error:
            raise ArtifactError(
                f"keys and values of {self.context_size:,} tokens do not fit into memory ({error})",
                "Compile the model with a smaller --context-size.",
            ) from None
