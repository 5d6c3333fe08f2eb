"""What OpenAI's and Ollama's chats share: messages, and the request for the one that follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from serve.protocols import Body, Model
from serve.requests import (
    BadRequest,
    CompletionRequest,
    read_list,
    read_max_tokens,
    read_sampling,
    read_stop,
    read_text,
    refuse,
)
from toolchain.contracts.chat.format import Message

ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
NO_TOOLS = "the model calls no tools"
REFUSED = {
    "tool_calls": NO_TOOLS,
    "function_call": NO_TOOLS,
    "images": "only text is read",
    "audio": "only text is read",
}
MOST_TOKENS, USUAL_TOKENS = 4096, 1024


def read_messages(body: Body) -> tuple[Message, ...]:
    """`messages`, each with a role and with content that is text or a list of texts. Raises BadRequest."""
    return tuple(_message(f"messages[{number}]", given) for number, given in enumerate(read_list(body, "messages")))


async def request_from_messages(
    messages: Sequence[Message], options: Mapping[str, Any], tokens_field: str, model: Model
) -> CompletionRequest:
    """A request for the message after `messages`, whose prompt is made beside the event loop.

    Raises BadRequest for a model without a chat template, for no messages, and as `Chat.prompt` does.
    """
    if model.chat is None:
        raise BadRequest(
            "model",
            f"{model.name} brings no chat template and only completes text; complete with it, or serve a model that "
            "was tuned to chat, with chat_template.jinja or a chat_template in tokenizer_config.json",
        )
    if not messages:
        raise BadRequest("messages", "at least one message is needed")
    max_tokens = read_max_tokens(options, tokens_field, USUAL_TOKENS, MOST_TOKENS)
    sampling, stop = read_sampling(options, model.defaults.sampling), read_stop(options, "stop")
    room = model.context_size - min(max_tokens, model.context_size // 2)
    ids = await asyncio.to_thread(model.chat.prompt, messages, room)
    return CompletionRequest("", ids=tuple(ids), max_tokens=max_tokens, sampling=sampling, stop=stop)


def _message(name: str, given: object) -> Message:
    if not isinstance(given, Mapping):
        raise BadRequest(name, "an object with `role` and `content` is needed")
    role = given.get("role")
    if role in ("tool", "function"):
        raise BadRequest(f"{name}.role", NO_TOOLS)
    if not isinstance(role, str) or role not in ROLES:
        raise BadRequest(f"{name}.role", f"one of {', '.join(ROLES)} is needed")
    refuse({f"{name}.{field}": given.get(field) for field in REFUSED}, {f"{name}.{k}": v for k, v in REFUSED.items()})
    return Message(ROLES[role], _content(f"{name}.content", given.get("content")))


def _content(name: str, given: object) -> str:
    if not isinstance(given, list):
        return read_text({name: given}, name)
    texts = []
    for part in given:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise BadRequest(name, 'only text is read: parts such as {"type": "text", "text": "…"}')
        texts.append(read_text({name: part.get("text")}, name))
    return "\n".join(texts)
