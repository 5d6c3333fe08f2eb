"""The bundle's own library on this machine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from serve.bundle import Bundle, load_runner
from serve.engine.engine import Engine, Statistics
from serve.engine.sampling import Sampling
from serve.healing import Healer
from serve.text import Decoder
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress


class Native:
    """One sequence at a time, which is what decoding on one device is fastest at for a single user."""

    concurrency = 1

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        """Raises ArtifactError for a tokenizer with more tokens than the model."""
        known, needed = engine.runner.vocab_size, bundle.tokenizer.get_vocab_size()
        if known < needed:
            raise ArtifactError(
                f"the tokenizer of {bundle.folder} has {needed} tokens, and its model knows {known}",
                "Compile the bundle again with the tokenizer that the model was trained with.",
            )
        self.engine = engine
        self._tokenizer, self._end_ids = bundle.tokenizer, bundle.end_ids
        self._healer = Healer(bundle.tokenizer)

    def problem(self) -> str | None:
        return None

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        cancelled: Callable[[], bool],
        statistics: Statistics,
        heal: bool = False,
    ) -> Generator[str, None, None]:
        healed = self._healer.split(prompt) if heal and max_tokens else None
        prompt, beginning = healed or (prompt, None)
        known = len(beginning.text) if beginning else 0  # characters that stand before the cursor already
        decoder = Decoder(self._tokenizer)
        tokens = self.engine.generate(prompt, sampling, max_tokens, self._end_ids, cancelled, statistics, beginning)
        with closing(tokens):  # whatever happens here, the engine is free for the next request
            for token in tokens:
                piece = decoder.push(token)
                yield piece[known:]
                known -= min(known, len(piece))


def open_native(bundle: Bundle, progress: Progress) -> Native:
    """The bundle's model, loaded and proved. Raises ArtifactError as `load_runner` does."""
    return Native(Engine(load_runner(bundle, progress), bundle.prefill_chunk), bundle)
