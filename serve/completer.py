"""Completing: a request to a prompt, the engine's tokens to text, and that to a completion worth accepting.

An editor's request goes through the rules of `serve/postprocessing/`, and generation ends as soon as one of them knows
the end. Raw text, which is what a request without a suffix asks for unless its dialect says otherwise, goes through
none: an API's client wants all that the model writes, and only the deadline that it gives itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from serve import prompts
from serve.bundle import Bundle
from serve.engine.engine import Ending, Engine, Statistics
from serve.postprocessing import rules
from serve.postprocessing.cursor import Cursor
from serve.postprocessing.pipeline import Pipeline, Stream
from serve.requests import Completion, CompletionRequest, Finish
from serve.text import TextStream
from toolchain.contracts.errors import ArtifactError

FINISH: dict[Ending, Finish] = {"end_token": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Completer:
    """`deadline_ms` is for requests that give none; it runs from when their turn has come."""

    bundle: Bundle
    engine: Engine
    pipeline: Pipeline = rules.ALL
    deadline_ms: int | None = None

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
        due = self._due(request)
        prompt, max_tokens = self.prompt(request)
        text, statistics = TextStream(self.bundle.tokenizer, request.stop), Statistics()
        pipeline = () if request.is_raw else self.pipeline
        shaped = Stream(pipeline, Cursor(request.prefix, request.suffix))
        whole = ""
        tokens = self.engine.generate(
            prompt,
            request.sampling,
            max_tokens,
            self.bundle.end_ids,
            lambda: cancelled() or time.monotonic() >= due,
            statistics,
        )
        with closing(tokens):  # whatever happens here, the engine is free for the next request
            for token in tokens:
                piece = shaped.push(text.push(token))
                whole += piece
                if piece:
                    yield piece
                if text.stopped or shaped.ended:
                    break
        if text.stopped or shaped.ended:
            finish: Finish = "stop"
        elif statistics.ending == "cancelled" and not cancelled():
            finish = "length"  # the deadline came first
        else:
            finish = FINISH[statistics.ending]
        rest = shaped.push(text.finish()) + shaped.finish("stop" if finish == "stop" else "length")
        whole += rest
        if rest:
            yield rest
        yield Completion(whole, finish, len(prompt), statistics)

    def _due(self, request: CompletionRequest) -> float:
        """When the answer is due, by the monotonic clock."""
        given = request.deadline_ms
        if given is None and not request.is_raw:
            given = self.deadline_ms
        return float("inf") if given is None else time.monotonic() + given / 1000

    def prompt(self, request: CompletionRequest) -> tuple[list[int], int]:
        """The prompt's ids, trimmed so that `max_tokens` fit behind them, and that count."""
        bundle = self.bundle
        max_tokens = min(request.max_tokens, bundle.context_size // 2)
        room = bundle.context_size - max_tokens
        ids = prompts.build(
            request.prefix, request.suffix, bundle.tokenizer, bundle.spec, bundle.ids, room, request.extra
        )
        return ids, max_tokens
