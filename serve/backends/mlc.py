"""mlc_llm's own engine on this machine: its scheduling and kernels, behind our prompts, rules and protocols.

The interface is that of MLCEngine, whose completions follow OpenAI's: https://llm.mlc.ai/docs/deploy/python_engine.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from serve.bundle import Bundle
from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from toolchain.contracts import mlc_package
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress


class Mlc:
    """One generation at a time: an MLCEngine hands all that it writes to whoever asked last."""

    concurrency = 1

    def __init__(self, engine: Any) -> None:
        """`engine` is an `mlc_llm.MLCEngine`."""
        self._engine = engine

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
        """As `Backend` has it. A prompt with `max_tokens` 0 is not computed: this engine always writes a token.

        It cannot be told what to begin with, so nothing is healed.
        """
        if not max_tokens or cancelled():
            statistics.ending = "cancelled" if max_tokens else "length"
            return
        begun = time.monotonic()
        with closing(self._ask(prompt, sampling, max_tokens)) as events:
            for event in events:
                if event.usage is not None:
                    statistics.generated = event.usage.completion_tokens
                    statistics.prefilled = event.usage.prompt_tokens
                    continue
                statistics.seconds = time.monotonic() - begun
                statistics.first_token_seconds = statistics.first_token_seconds or statistics.seconds
                statistics.generated += 1
                (choice,) = event.choices
                yield choice.text
                if choice.finish_reason is not None:
                    statistics.ending = "length" if choice.finish_reason == "length" else "end_token"
                elif cancelled():
                    return

    def _ask(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> Any:
        return self._engine.completions.create(
            prompt=list(prompt),
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stream=True,
            stream_options={"include_usage": True},
        )


def open_mlc(bundle: Bundle, progress: Progress) -> Mlc:
    """The bundle's weights in mlc_llm's engine, with the best of the bundle's libraries that mlc_llm built.

    Of a bundle without one, mlc_llm compiles its own, which it keeps in its own cache. Raises MissingExtra without
    mlc_llm, ArtifactError when it cannot load the bundle. The engine gives no logits, so the bundle's proof is not run.
    """
    from serve import proof

    mlc_package.find()
    proof.check_files(bundle.folder, progress)
    target, library = bundle.libraries[0]
    progress.start("loading mlc_llm")
    try:
        from mlc_llm import MLCEngine

        engine = MLCEngine(
            str(bundle.params),
            device=target.device,
            model_lib=str(library) if bundle.builder == "mlc-llm" else None,
            mode="interactive",
        )
    except Exception as error:  # whatever its layers raise
        told = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        raise ArtifactError(f"mlc_llm cannot load {bundle.folder} ({told})", "Leave --engine out.") from error
    progress.finish()
    return Mlc(engine)
