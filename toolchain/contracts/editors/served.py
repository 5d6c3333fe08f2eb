"""What an editor has to know of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.fim import FimSpec

COMPLETION_TOKENS = 60
WINDOW_TOKENS = 1024
"""What an editor sends at most. A processor reads 120 tokens a second or so, and has to for a first completion."""
TOKENS_A_LINE = 10
"""For editors that count their context in lines."""


@dataclass(frozen=True)
class Served:
    """A server at `url`, without a slash at its end; `tokenizer` is an absolute path, `context_size` in tokens.

    `key` is the API key where whoever asks wants it among the settings.
    """

    url: str
    tokenizer: Path
    spec: FimSpec
    context_size: int
    model: str
    key: str | None = None

    @property
    def window(self) -> int:
        """Tokens of context that an editor may send."""
        return min(WINDOW_TOKENS, max(self.context_size - COMPLETION_TOKENS, self.context_size // 2))

    @property
    def lines_before(self) -> int:
        """Lines before the cursor that fill three quarters of the window."""
        return max(1, self.window // TOKENS_A_LINE * 3 // 4)

    @property
    def lines_after(self) -> int:
        return max(1, self.window // TOKENS_A_LINE // 4)

    def prompt(self, prefix: str, suffix: str) -> str:
        """The usual order, PSM, around an editor's own names of the text before and after the cursor."""
        return f"{self.spec.prefix}{prefix}{self.spec.suffix}{suffix}{self.spec.middle}"
