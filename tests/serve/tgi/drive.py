"""TGI's client, told what to do on stdin, a line of JSON a call, as the drivers of npm's clients are."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from text_generation import AsyncClient, Client
from text_generation.types import Message

url, key = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}"} if key else None
client = Client(url, headers)
asynchronous = AsyncClient(url, headers)


async def _all(stream: Any) -> list[Any]:
    return [event async for event in stream]


def chat(text: str) -> Any:
    return client.chat([Message(role="user", content=text)])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "generate": lambda prompt, options: client.generate(prompt, **options),
    "stream": lambda prompt, options: list(client.generate_stream(prompt, **options)),
    "generate_async": lambda prompt, options: asyncio.run(asynchronous.generate(prompt, **options)),
    "stream_async": lambda prompt, options: asyncio.run(_all(asynchronous.generate_stream(prompt, **options))),
    "chat": chat,
}


def told(value: Any) -> Any:
    return [told(one) for one in value] if isinstance(value, list) else value.model_dump()


for line in sys.stdin:
    number, asked = json.loads(line)
    try:
        outcome = {"value": told(FUNCTIONS[asked["func"]](*asked["args"]))}
    except Exception as error:  # the test asserts which
        outcome = {"error": {"name": type(error).__name__, "message": str(error)}}
    print(json.dumps([number, outcome]), flush=True)
