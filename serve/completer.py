"""Completing: a request to a prompt, the engine's tokens to text."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from serve import prompts
from serve.bundle import Bundle
from serve.engine.engine import Ending, Engine, Statistics
from serve.requests import Completion, CompletionRequest, Finish
from serve.text import TextStream
from toolchain.contracts.errors import ArtifactError

FINISH: dict[Ending, Finish] = {"end_token": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Completer:
    bundle: Bundle
    engine: Engine

    def __post_init__(self) -> None:
        known, needed = self.engine.runner.vocab_size, self.bundle.tokenizer.get_vocab_size()
        if known < needed:
            raise ArtifactError(
                f"the tokenizer of {self.bundle.folder} has {needed} tokens, and its model knows {known}",
                "Compile the bundle again with the tokenizer that the model was trained with.",
            )

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool] = lambda: False) -> Completion:
        """The whole completion."""
        for piece in self.stream(request, cancelled):
            if isinstance(piece, Completion):
                return piece
        raise AssertionError("a stream ends with its completion")

    def stream(
        self, request: CompletionRequest, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[str | Completion, None, None]:
        """Pieces of text as they become final, then the completion with all of it."""
        prompt, max_tokens = self.prompt(request)
        text, statistics = TextStream(self.bundle.tokenizer, request.stop), Statistics()
        whole = ""
        tokens = self.engine.generate(prompt, request.sampling, max_tokens, self.bundle.end_ids, cancelled, statistics)
        with closing(tokens):  # whatever happens here, the engine is free for the next request
            for token in tokens:
                piece = text.push(token)
                whole += piece
                if piece:
                    yield piece
                if text.stopped:
                    break
        rest = text.finish()
        whole += rest
        if rest:
            yield rest
        yield Completion(whole, "stop" if text.stopped else FINISH[statistics.ending], len(prompt), statistics)

    def prompt(self, request: CompletionRequest) -> tuple[list[int], int]:
        """The prompt's ids, trimmed so that `max_tokens` fit behind them, and that count."""
        bundle = self.bundle
        max_tokens = min(request.max_tokens, bundle.context_size // 2)
        room = bundle.context_size - max_tokens
        ids = prompts.build(request.prefix, request.suffix, bundle.tokenizer, bundle.spec, bundle.ids, room)
        return ids, max_tokens
