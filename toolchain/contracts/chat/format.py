"""How a model writes a conversation: messages to the text of its template, and that text to token ids.

Training and serving both go this way, so a model is asked in the very tokens in which it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolchain.contracts.chat import template
from toolchain.contracts.chat.renderer import Renderer
from toolchain.contracts.chat.template import ChatTemplate
from toolchain.contracts.chat.tokens import ControlTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True)
class ChatFormat:
    template: ChatTemplate
    tokens: ControlTokens
    renderer: Renderer = field(default_factory=Renderer)

    def text(self, messages: Sequence[Message], asking: bool) -> str:
        """What the template makes of `messages`, for `tokens` to encode; `asking`, up to where the answer begins.

        Raises TemplateRefusal when the template does not take the messages, ArtifactError when it fails.
        """
        marked = [{"role": message.role, "content": self.tokens.mark(message.content)} for message in messages]
        variables = {**self.template.variables, "messages": marked, "add_generation_prompt": asking}
        return self.renderer.render(self.template.source, {**variables, "tools": None, "documents": None})


def open_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat | None:
    """The format of the model in `folder`; None when it brings no template. Raises ArtifactError for unreadable files.

    `tokenizer` is the model's, opened for users' text (`toolchain/contracts/tokenizer.py`).
    """
    found = template.find(folder)
    return ChatFormat(found, ControlTokens(tokenizer)) if found else None
