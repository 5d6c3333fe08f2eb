"""A conversation: a model's own template makes one prompt of all messages, to be continued with the answer."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from serve.bundle import Bundle
from serve.prompts import CHARACTERS_PER_TOKEN
from serve.requests import BadRequest
from toolchain.contracts.chat.format import ChatFormat, Message, open_format
from toolchain.contracts.errors import ArtifactError, TemplateFailure, TemplateRefusal

log = logging.getLogger("fimble.chat")


@dataclass(frozen=True)
class Chat:
    format: ChatFormat

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
        try:
            text = self.format.text(messages, asking=True)
        except TemplateRefusal as refusal:
            raise BadRequest("messages", refusal.message) from None
        except TemplateFailure as failure:  # of which the log has no more than this, since it may quote the messages
            log.error("the model's chat template failed: %s", failure.where)
            raise
        if len(text) > room * CHARACTERS_PER_TOKEN:
            return []  # not worth the tokenizer's time
        ids = self.format.tokens.encode(text)
        if not ids:
            raise ArtifactError("the model's chat template writes nothing", "Mend it and compile again.")
        return ids if len(ids) <= room else []


def open_chat(bundle: Bundle) -> Chat | None:
    """How the bundle's model chats; None when it brings no chat template. Raises ArtifactError for unreadable files."""
    found = open_format(bundle.params, bundle.tokenizer)
    return Chat(found) if found else None
