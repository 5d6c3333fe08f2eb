"""From text around the cursor to the text between: prompt, tokens, and text again."""

from __future__ import annotations

from collections.abc import Callable, Generator

from serve import prompts
from serve.bundle import Bundle
from serve.engine.engine import Engine, Statistics, never
from serve.requests import Completion, CompletionRequest, FinishReason, Timings
from serve.text import StopMatcher, TextDecoder


class Completer:
    """A bundle and the engine that runs it. One completion at a time."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self._engine = engine
        self._encoder = prompts.Encoder(bundle.tokenizer, bundle.fim, bundle.ids)

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool] = never) -> Completion:
        """The whole completion at once."""
        pieces = self.stream(request, cancelled)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                completion: Completion = end.value
                return completion

    def stream(
        self, request: CompletionRequest, cancelled: Callable[[], bool] = never
    ) -> Generator[str, None, Completion]:
        """The completion's text piece by piece; the generator's value is the whole of it."""
        context = min(self._engine.context_size, self.bundle.context_size)
        prompt = prompts.build(self._encoder, request.prefix, request.suffix, request.max_tokens, context)
        decoder = TextDecoder(self.bundle.tokenizer)
        matcher = StopMatcher(request.stop)
        statistics = Statistics()
        text: list[str] = []
        tokens = self._engine.generate(
            prompt.ids, request.sampling, prompt.max_tokens, self.bundle.ids.control, cancelled, statistics
        )
        for token in tokens:
            if piece := matcher.push(decoder.push(token)):
                text.append(piece)
                yield piece
            if matcher.matched:
                break
        tokens.close()
        if not matcher.matched and (piece := matcher.push(decoder.finish()) + matcher.finish()):
            text.append(piece)
            yield piece
        return Completion(
            text="".join(text),
            finish_reason=_reason(statistics, matcher.matched),
            prompt_tokens=len(prompt.ids),
            cached_tokens=statistics.reused,
            completion_tokens=statistics.generated,
            stopped_by_text=matcher.matched,
            timings=Timings(statistics.first_token_seconds, statistics.total_seconds),
        )


def _reason(statistics: Statistics, matched: bool) -> FinishReason:
    if matched or statistics.ending == "end_token":
        return "stop"
    return "length" if statistics.ending == "length" else "cancelled"
