"""One line in the log for each request: what it was, what it took, and of its content nothing unless that is wanted."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.scheduler import Turn

POLLED = ("/health", "/metrics", "/status", "/page/")
"""What programs ask for again and again; only when it fails is that worth a line."""
LONGEST = 100
log = logging.getLogger("fimble.requests")


class RequestLog:
    """Around the application. A handler leaves its turn in the request's state, as `turn`."""

    def __init__(self, app: ASGIApp, with_prompts: bool) -> None:
        self._app, self._with_prompts = app, with_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            polled = status < 400 and scope["method"] == "GET" and scope["path"].startswith(POLLED)
            if not polled and log.isEnabledFor(logging.INFO):
                facts = {**_request(scope), "status": status, "ms": _milliseconds(time.monotonic() - begun)}
                turn = scope.get("state", {}).get("turn")
                if turn is not None:
                    facts |= _turn(turn, status) | (_content(turn) if self._with_prompts else {})
                log.info("request", extra={"facts": facts})


def _request(scope: Scope) -> dict[str, Any]:
    address, _ = scope.get("client") or ("", 0)
    agent = Headers(scope=scope).get("user-agent", "")
    return {
        "method": scope["method"],
        "path": scope["path"][:LONGEST],
        "address": address,
        "client": agent[:LONGEST],
    }


def _turn(turn: Turn, status: int) -> dict[str, Any]:
    completion = turn.completed
    if completion is None:
        return {
            "model": turn.model,
            "queue_ms": _milliseconds(turn.waited),
            "finish": "failed" if status != 499 else "cancelled",
        }
    said = completion.statistics
    return {
        "model": turn.model,
        "queue_ms": _milliseconds(turn.waited),
        "finish": "superseded" if turn.superseded else completion.finish,
        "prompt_tokens": completion.prompt_tokens,
        "cached_tokens": said.reused,
        "generated_tokens": said.generated,
        "first_token_ms": _milliseconds(said.first_token_seconds),
    }


def _content(turn: Turn) -> dict[str, Any]:
    completion = turn.completed.text if turn.completed else None
    return {"prefix": turn.wanted.prefix, "suffix": turn.wanted.suffix, "completion": completion}


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
