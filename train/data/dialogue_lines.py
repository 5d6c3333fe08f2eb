"""One line of a file of dialogues to its messages, in any of the shapes in which dialogues are published.

{"messages": [{"role": "user", "content": "…"}, …]}          OpenAI's, and TRL's
{"conversations": [{"from": "human", "value": "…"}, …]}      ShareGPT's
{"conversations": ["…", "…", …]}                             LIMA's: the user's and the assistant's in turns
{"text": "### Human: … ### Assistant: …"}                    Guanaco's
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolchain.contracts.chat.format import Message, Role
from toolchain.contracts.tokenizer import clean

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
ALTERNATING: tuple[Role, Role] = ("user", "assistant")
SHAPES = "messages, conversations or text"
_MARKER = re.compile(r"### (Human|Assistant):")


def parse(line: bytes) -> list[Message]:
    """The messages of a line. Raises ValueError, which says what is wrong with it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        if line.strip() == b"[":
            raise ValueError("a JSON array begins here, and one object a line is read") from None
        raise ValueError(f"no JSON ({error})") from None
    if isinstance(found, list):
        raise ValueError("a JSON array, and one object a line is read")
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    given = found.get("messages", found.get("conversations"))
    if given is None and isinstance(found.get("text"), str):
        return _marked(found["text"])
    if given is None and "text" in found:
        raise ValueError("its text is no text in quotes")
    if given is None:
        raise ValueError(f"no dialogue: it has none of {SHAPES}")
    if not isinstance(given, list):
        raise ValueError("its messages or conversations are no list")
    if given and all(isinstance(text, str) for text in given):
        return [Message(ALTERNATING[number % 2], clean(text)) for number, text in enumerate(given)]
    return [_message(f"message {number}", one) for number, one in enumerate(given, 1)]


def _message(where: str, given: Any) -> Message:
    if not isinstance(given, dict):
        raise ValueError(f"{where} is no object")
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"{where} has the role {role!r}, and known are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"the content of {where} is no text")
    return Message(ROLES[role], clean(content))


def _marked(text: str) -> list[Message]:
    before, *parts = _MARKER.split(text)
    if before.strip() or not parts:
        raise ValueError("its text does not begin with ### Human: or ### Assistant:")
    names, texts = parts[::2], parts[1::2]
    roles: list[Role] = ["user" if name == "Human" else "assistant" for name in names]
    return [Message(role, clean(said.strip())) for role, said in zip(roles, texts, strict=True)]
