"""Where text comes from: this machine's compiled library, mlc_llm's engine, or another server.

A backend continues a prompt of token ids. Everything around it is the same for all: prompts, stop strings, rules,
protocols, the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from toolchain.contracts.errors import FimbleError


class BackendError(FimbleError):
    """What generates is another program, and that failed or cannot be reached."""


class Backend(Protocol):
    @property
    def concurrency(self) -> int:
        """How many generations may run at once."""
        ...

    def problem(self) -> str | None:
        """Why it cannot generate now, as far as can be told at once; None when it can."""
        ...

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        cancelled: Callable[[], bool],
        statistics: Statistics,
        heal: bool = False,
    ) -> Generator[str, None, None]:
        """Pieces of the text after `prompt`, each whole characters, until the model's end or `max_tokens`.

        With `heal` the prompt's last token may be a beginning only (`serve/healing.py`), where the backend can tell.
        A piece may be empty, and `cancelled` is asked at every step. `statistics` are filled on the way; why it ended
        stands in them at the end. Closing the generator ends the generation.
        """
        ...
