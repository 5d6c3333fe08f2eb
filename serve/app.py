"""The HTTP application: routes, limits and who may ask. What a body means is the protocols' part."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve.completer import Completer
from serve.protocols import error_body, huggingface, openai
from serve.requests import BadRequest, Completion, CompletionRequest
from serve.settings import LOOPBACK, ServeSettings
from toolchain.contracts.errors import FimbleError

MOST_BYTES = 2 << 20
RETRY_SECONDS = "1"
Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """A request that is not answered, with the status that says why."""

    def __init__(self, status: int, message: str, field: str = "", kind: str = "validation") -> None:
        super().__init__(message)
        self.status, self.field, self.kind = status, field, kind


@dataclass
class Server:
    """One model behind one worker thread, and a bounded queue before it."""

    completer: Completer
    settings: ServeSettings

    def __post_init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._waiting = 0
        bundle = self.completer.bundle
        self.defaults = CompletionRequest("", max_tokens=bundle.max_tokens, sampling=bundle.sampling)

    def app(self) -> Starlette:
        routes = [
            Route("/", self._guarded(self.models_reply), methods=["POST"]),
            Route("/models/{model:path}", self._guarded(self.models_reply), methods=["POST"]),
            Route("/generate", self._guarded(self.generate), methods=["POST"]),
            Route("/v1/completions", self._guarded(self.completions), methods=["POST"]),
            Route("/v1/models", self._guarded(self.models), methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        return Starlette(routes=routes)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.completer.bundle.name})

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai.models(self.completer.bundle.name))

    async def models_reply(self, request: Request) -> Response:
        body = await _read_body(request)
        completion = await self._complete(request, huggingface.parse(body, self.defaults, self.completer.bundle.spec))
        return JSONResponse([huggingface.render(body, completion)])

    async def generate(self, request: Request) -> Response:
        body = await _read_body(request)
        completion = await self._complete(request, huggingface.parse(body, self.defaults, self.completer.bundle.spec))
        return JSONResponse(huggingface.render(body, completion))

    async def completions(self, request: Request) -> Response:
        body = await _read_body(request)
        wanted = openai.parse(body, self.defaults, self.completer.bundle.spec)
        model = body["model"] if isinstance(body.get("model"), str) else self.completer.bundle.name
        if body.get("stream") is True:
            events = self._events(wanted, model)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return JSONResponse(openai.render(model, await self._complete(request, wanted)))

    async def _complete(self, request: Request, wanted: CompletionRequest) -> Completion:
        """Run in the worker thread; a client that leaves ends the generation at its next step."""
        gone = threading.Event()
        self._enter()
        try:
            work = asyncio.get_running_loop().run_in_executor(
                self._worker, self.completer.complete, wanted, gone.is_set
            )
            watch = asyncio.create_task(_watch(request, gone))
            try:
                return await work
            finally:
                watch.cancel()
        finally:
            self._waiting -= 1

    async def _events(self, wanted: CompletionRequest, model: str) -> AsyncIterator[str]:
        """Server-sent events, closed by `[DONE]`. Leaving ends the generation, because this generator is closed."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        pieces: asyncio.Queue[str | Completion | None] = asyncio.Queue()

        def produce() -> None:
            try:
                for piece in self.completer.stream(wanted, gone.is_set):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        self._enter()
        work = loop.run_in_executor(self._worker, produce)
        try:
            while (piece := await pieces.get()) is not None:
                yield f"data: {json.dumps(openai.render_piece(model, piece))}\n\n"
            await work
            yield "data: [DONE]\n\n"
        except FimbleError as error:
            yield f"data: {json.dumps(error_body(str(error), '', 'generation'))}\n\n"
        finally:
            gone.set()
            self._waiting -= 1

    def _enter(self) -> None:
        """Take a place in the queue. Raises Refused when it is full."""
        if self._waiting > self.settings.queue_limit:
            raise Refused(503, "the server is busy, try again", kind="overloaded")
        self._waiting += 1

    def _guarded(self, handler: Handler) -> Handler:
        """Check who asks before anything is read, and give every failure a body that editors parse."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_origin(request)
                self._check_key(request)
                return await handler(request)
            except BadRequest as error:
                return _failure(422, str(error), error.field, "validation")
            except Refused as error:
                return _failure(error.status, str(error), error.field, error.kind)
            except ClientDisconnect:
                return Response(status_code=499)
            except FimbleError as error:
                return _failure(500, str(error), "", "generation")

        return guarded

    def _check_origin(self, request: Request) -> None:
        """A page that the user visits must not reach the model: neither by its own name for us nor from its origin."""
        if self.settings.host not in LOOPBACK:
            return
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if host not in LOOPBACK:
            raise Refused(403, f"the Host header names {host}, not this machine", "host", "forbidden")
        origin = request.headers.get("origin")
        if origin is None or origin.startswith("vscode-webview://"):
            return
        if urlsplit(origin).hostname not in LOOPBACK:
            raise Refused(403, f"requests from {origin} are not taken", "origin", "forbidden")

    def _check_key(self, request: Request) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self.settings.api_key.encode()):
            raise Refused(401, "a valid API key is needed", "authorization", "unauthorized")


async def _read_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in the body. Raises Refused or BadRequest when there is none, or too much of it."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise Refused(413, f"the body is larger than {MOST_BYTES} bytes", "body")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("body", "JSON is needed") from None
    if not isinstance(body, Mapping):
        raise BadRequest("body", "a JSON object is needed")
    return body


async def _watch(request: Request, gone: threading.Event) -> None:
    """Set `gone` when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _failure(status: int, message: str, field: str, kind: str) -> Response:
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else None
    return JSONResponse(error_body(message, field, kind), status_code=status, headers=headers)
