"""A conversation: a model's own template makes one prompt of all messages, to be continued with the answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve.bundle import Bundle
from serve.chat import template
from serve.chat.renderer import Renderer
from serve.chat.template import ChatTemplate
from serve.chat.tokens import ControlTokens
from serve.prompts import CHARACTERS_PER_TOKEN
from serve.requests import BadRequest
from toolchain.contracts.errors import ArtifactError


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Chat:
    template: ChatTemplate
    tokens: ControlTokens
    renderer: Renderer = field(default_factory=Renderer)

    def prompt(self, messages: Sequence[Message], room: int) -> list[int]:
        """The ids of a prompt of at most `room` tokens, after which the assistant's next message follows.

        Where all messages do not fit, the oldest turns go, each from a user's message to before the next; what stands
        before the first turn, a system message, stays. Raises BadRequest when not even the last turn fits or the
        template refuses the messages, ArtifactError when the template fails.
        """
        turns = [at for at, message in enumerate(messages) if message.role == "user"]
        head, turns = list(messages[: turns[0] if turns else 0]), turns or [0]
        fitting: dict[int, list[int]] = {}

        def fits(begin: int) -> bool:
            fitting[begin] = self._render([*head, *messages[begin:]], room)
            return bool(fitting[begin])

        if fits(turns[0]):
            return fitting[turns[0]]
        kept = bisect_left(turns, True, lo=1, key=fits)
        if kept == len(turns):
            raise BadRequest("messages", f"the last turn alone does not fit the {room} tokens that a prompt may have")
        return fitting[turns[kept]]

    def _render(self, messages: Sequence[Message], room: int) -> list[int]:
        """The prompt's ids, none when there are more than `room`."""
        marked = [{"role": message.role, "content": self.tokens.mark(message.content)} for message in messages]
        variables = {**self.template.variables, "messages": marked, "add_generation_prompt": True}
        text = self.renderer.render(self.template.source, {**variables, "tools": None, "documents": None})
        if len(text) > room * CHARACTERS_PER_TOKEN:
            return []  # not worth the tokenizer's time
        ids = self.tokens.encode(text)
        if not ids:
            raise ArtifactError("the model's chat template writes nothing", "Mend it and compile again.")
        return ids if len(ids) <= room else []


def open_chat(bundle: Bundle) -> Chat | None:
    """How the bundle's model chats; None when it brings no chat template. Raises ArtifactError for unreadable files."""
    found = template.find(bundle.params)
    return Chat(found, ControlTokens(bundle.tokenizer)) if found else None
