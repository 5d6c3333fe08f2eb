"""Completing: a request to a prompt, and the text that a backend writes after it to a completion worth accepting.

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
from serve.backends import Backend
from serve.bundle import Bundle
from serve.engine.engine import Ending, Statistics
from serve.postprocessing import rules
from serve.postprocessing.cursor import Cursor
from serve.postprocessing.least_indentation import least_indentation
from serve.postprocessing.pipeline import Pipeline, Stream
from serve.requests import Completion, CompletionRequest, Finish
from serve.text import Stopper

FINISH: dict[Ending, Finish] = {"end_token": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Completer:
    """`deadline_ms` is for requests that give none; it runs from when their turn has come."""

    bundle: Bundle
    backend: Backend
    pipeline: Pipeline = rules.ALL
    deadline_ms: int | None = None
    healing: bool = True

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
        stopper, statistics = Stopper(request.stop), Statistics()
        pipeline = () if request.is_raw else self.pipeline
        if request.least_indentation:
            pipeline = (*pipeline, least_indentation(request.least_indentation))
        shaped = Stream(pipeline, Cursor(request.prefix, request.suffix))
        whole = ""

        def over() -> bool:
            return cancelled() or time.monotonic() >= due

        heal = self.healing and not request.is_raw
        writing = self.backend.generate(prompt, request.sampling, max_tokens, over, statistics, heal)
        with closing(writing) as written:
            for text in written:
                piece = shaped.push(stopper.push(text))
                whole += piece
                if piece:
                    yield piece
                if stopper.stopped or shaped.ended:
                    break
        if stopper.stopped or shaped.ended:
            finish: Finish = "stop"
        elif statistics.ending == "cancelled" and not cancelled():
            finish = "length"  # the deadline came first
        else:
            finish = FINISH[statistics.ending]
        rest = shaped.push(stopper.finish()) + shaped.finish("stop" if finish == "stop" else "length")
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
        if request.ids:
            return list(request.ids), min(request.max_tokens, bundle.context_size - len(request.ids))
        max_tokens = min(request.max_tokens, bundle.context_size // 2)
        room = bundle.context_size - max(max_tokens, 1)
        ids = prompts.build(
            request.prefix, request.suffix, bundle.tokenizer, bundle.spec, bundle.ids, room, request.extra
        )
        return ids, max_tokens
