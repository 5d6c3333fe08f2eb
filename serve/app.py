"""The HTTP application: routes, limits and who may ask. What a body means is the protocols' part."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve import protocols
from serve.backends import BackendError
from serve.completer import Completer
from serve.metrics import CONTENT_TYPE, Metrics
from serve.page import files
from serve.page.status import describe, status
from serve.protocols import Body, Exchange, Model, Stream, error_body, huggingface, llamacpp, ollama, openai, tabby
from serve.requests import BadRequest, Completion, CompletionRequest
from serve.settings import LOOPBACK, ServeSettings
from toolchain.contracts.errors import FimbleError

MOST_BYTES = 2 << 20
BODY_SECONDS = 30
RETRY_SECONDS = "1"
Handler = Callable[[Request], Awaitable[Response]]
Answer = Exchange | Mapping[str, Any]
Asking = Callable[[Mapping[str, Any], Model], Answer | Awaitable[Answer]]
Telling = Callable[[Model], object]
T = TypeVar("T")
log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not answered, with the status that says why and the part of the request at fault."""

    def __init__(self, status: int, message: str, field: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.field, self.kind = status, field, kind


@dataclass
class Server:
    """One model behind one worker thread, and a bounded queue before it."""

    completer: Completer
    settings: ServeSettings

    def __post_init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=self.completer.backend.concurrency, thread_name_prefix="engine")
        self._held = 0
        self.metrics = Metrics(lambda: self._held)
        bundle = self.completer.bundle
        self._description = describe(bundle)
        self.model = protocols.describe(bundle)

    def app(self) -> Starlette:
        keyed, local = self._for_clients, self._for_this_machine
        asking: dict[str, Asking] = {
            "/": huggingface.infer,
            "/models/{model:path}": huggingface.infer,
            "/generate": huggingface.generate,
            "/generate_stream": huggingface.generate_stream,
            "/v1/completions": _complete_either,
            "/v1/chat/completions": openai.chat,
            "/infill": llamacpp.infill,
            "/completion": llamacpp.complete,
            "/completions": llamacpp.complete,
            "/api/generate": ollama.generate,
            "/api/chat": ollama.chat,
            "/api/show": ollama.show,
        }
        telling: dict[str, Telling] = {
            "/v1/models": openai.models,
            "/v1/models/{model:path}": openai.model_card,
            "/info": huggingface.info,
            "/props": llamacpp.props,
            "/v1/health": tabby.health,
            "/v1beta/server_setting": tabby.server_setting,
            "/api/tags": ollama.tags,
            "/api/ps": ollama.running,
            "/api/version": ollama.version,
        }
        routes = [
            *(Route(path, keyed(self._answering(ask)), methods=["POST"]) for path, ask in asking.items()),
            *(Route(path, keyed(self._answering_with(tell)), methods=["GET"]) for path, tell in telling.items()),
            Route("/v1/health", keyed(self._answering_with(tabby.health)), methods=["POST"]),  # older agents
            Route("/v1/events", keyed(self.event), methods=["POST"]),
            Route("/", local(self.alive), methods=["HEAD"]),
            Route("/health", local(self.health), methods=["GET"]),
            Route("/metrics", keyed(self.counted), methods=["GET"]),
            Route("/status", keyed(self.status), methods=["GET"]),
            Route("/", local(files.index), methods=["GET"]),
            Route("/page/{name}", local(files.file), methods=["GET"]),
        ]
        kinds = (FimbleError, Refused, ClientDisconnect, HTTPException, Exception)
        return Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, self._failed))

    def _failed(self, request: Request, error: Exception) -> Response:
        reply = _reply_to_error(request, error)
        self.metrics.record_failure(reply.status_code)
        return reply

    async def counted(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, request: Request) -> Response:
        url = str(request.base_url).rstrip("/")
        return JSONResponse(status(self.completer.bundle, self._description, self.metrics, url))

    async def alive(self, request: Request) -> Response:
        return Response()

    async def health(self, request: Request) -> Response:
        problem = await run_in_threadpool(self.completer.backend.problem)
        if problem:
            raise Refused(503, problem, "model", "unhealthy")
        return JSONResponse({"status": "ok", "model": self.completer.bundle.name})

    async def event(self, request: Request) -> Response:
        self.metrics.record_event(tabby.event(await _read_body(request)))
        return JSONResponse({})

    def _answering(self, ask: Asking) -> Handler:
        """Answer as a dialect's function says."""

        async def answer(request: Request) -> Response:
            body = await _read_body(request)
            asked = ask(body, self.model)
            exchange = await asked if inspect.isawaitable(asked) else asked
            if not isinstance(exchange, Exchange):
                return JSONResponse(exchange)
            if exchange.stream is None:
                return JSONResponse(exchange.whole(await self._complete(request, exchange.wanted)))
            events = self._events(exchange.wanted, exchange.stream, partial(_failure_body, request))
            media_type = exchange.stream.framing.media_type
            return StreamingResponse(events, media_type=media_type, headers={"Cache-Control": "no-store"})

        return answer

    def _answering_with(self, tell: Telling) -> Handler:
        """Answer with what a dialect tells of the model."""

        async def answer(request: Request) -> Response:
            return JSONResponse(tell(self.model))

        return answer

    async def _complete(self, request: Request, wanted: CompletionRequest) -> Completion:
        """Run in the worker thread; a client that leaves ends the generation at its next step."""
        gone, arrived = threading.Event(), time.monotonic()

        def produce() -> Completion:
            waited = time.monotonic() - arrived
            completion = self.completer.complete(wanted, gone.is_set)
            self.metrics.record_completion(completion, waited)
            return completion

        work = self._queue(produce)
        watch = asyncio.create_task(_watch(request, gone, work))
        try:
            return await work
        except asyncio.CancelledError:
            if gone.is_set():
                raise ClientDisconnect from None
            raise
        finally:
            watch.cancel()
            gone.set()  # should this task be cancelled, as at the server's end, the generation ends too

    def _events(
        self, wanted: CompletionRequest, stream: Stream, failure: Callable[..., object]
    ) -> AsyncGenerator[str, None]:
        """The stream's events. Leaving ends the generation, because the generator is closed.

        The place in the queue is taken here and now, while a refusal can still be the reply.
        """
        loop, gone = asyncio.get_running_loop(), threading.Event()
        pieces: asyncio.Queue[str | Completion | None] = asyncio.Queue()
        arrived = time.monotonic()

        def produce() -> None:
            waited = time.monotonic() - arrived
            try:
                for piece in self.completer.stream(wanted, gone.is_set):
                    if isinstance(piece, Completion):
                        self.metrics.record_completion(piece, waited)
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        work = self._queue(produce)

        framing = stream.framing

        async def events() -> AsyncGenerator[str, None]:
            try:
                while (piece := await pieces.get()) is not None:
                    for event in stream.events(piece):
                        yield framing.frame(event)
                await work
                if framing.end:
                    yield framing.end
            except FimbleError as error:
                self.metrics.record_failure(500)
                yield framing.frame(failure(500, str(error), "model", "generation"))
            except Exception as error:
                self.metrics.record_failure(500)
                log.exception("a stream failed")  # raised on, it would cut the reply off before the client can read why
                told = f"the server failed ({type(error).__name__})"
                yield framing.frame(failure(500, told, "server", "internal"))
            finally:
                gone.set()
                work.cancel()  # a place in the queue is free at once

        return events()

    def _queue(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have the worker do `job` in its turn. Raises Refused when too many are waiting already."""
        if self._held > self.settings.queue_limit:
            raise Refused(503, "the server is busy, try again", "queue", "overloaded")
        self._held += 1
        work = asyncio.get_running_loop().run_in_executor(self._worker, job)
        work.add_done_callback(self._release)
        return work

    def _release(self, work: asyncio.Future[T]) -> None:
        self._held -= 1

    def _for_clients(self, handler: Handler) -> Handler:
        """Check the key as well; a health check needs none."""

        async def keyed(request: Request) -> Response:
            self._check_key(request)
            return await handler(request)

        return self._for_this_machine(keyed)

    def _for_this_machine(self, handler: Handler) -> Handler:
        """Check who asks before anything is read."""

        async def local(request: Request) -> Response:
            self._check_origin(request)
            return await handler(request)

        return local

    def _check_origin(self, request: Request) -> None:
        """A page that the user visits must not reach the model: neither by its own name for us nor from its origin."""
        if self.settings.host not in LOOPBACK:
            return
        host = request.headers.get("host", "")
        if _hostname(f"//{host}") not in LOOPBACK:
            raise Refused(403, f"the Host header '{host}' does not name this machine", "host", "forbidden")
        origin = request.headers.get("origin")
        if origin is None or origin.startswith("vscode-webview://"):
            return
        if _hostname(origin) not in LOOPBACK:
            raise Refused(403, f"requests from {origin} are not taken", "origin", "forbidden")

    def _check_key(self, request: Request) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self.settings.api_key.encode()):
            raise Refused(401, "a valid API key is needed", "authorization", "unauthorized")


def _complete_either(body: Body, model: Model) -> Exchange:
    """Tabby and OpenAI have the same path."""
    return tabby.complete(body, model) if "segments" in body else openai.complete(body, model)


async def _read_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in the body. Raises Refused or BadRequest for none, too large or too slow a one."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise Refused(413, f"the body is larger than {MOST_BYTES} bytes", "body", "validation")
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS} seconds", "body", "timeout") from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("body", "JSON is needed") from None
    if not isinstance(body, Mapping):
        raise BadRequest("body", "a JSON object is needed")
    return body


async def _watch(request: Request, gone: threading.Event, work: asyncio.Future[Any]) -> None:
    """When the client leaves, set `gone` and give up `work`, so that its place in the queue is free at once."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
    work.cancel()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as an IPv6 address that does not end
        return None


def _reply_to_error(request: Request, error: Exception) -> Response:
    """Every failure gets a body that editors can parse, and none shows the inside of the server."""
    failure = partial(_failure, request)
    match error:
        case BadRequest():
            return failure(422, str(error), error.field, "validation")
        case Refused():
            headers = {"Connection": "close"} if error.status == 408 else None
            return failure(error.status, str(error), error.field, error.kind, headers)
        case ClientDisconnect():
            return Response(status_code=499)
        case HTTPException():
            kind = "method_not_allowed" if error.status_code == 405 else "not_found"
            message = f"{request.method} {request.url.path}: {error.detail}"
            return failure(error.status_code, message, "path", kind, error.headers)
        case BackendError():
            return failure(502, str(error), "model", "generation")
        case FimbleError():
            return failure(500, str(error), "model", "generation")
        case _:
            # The server's log has the rest. It closes the connection after such an error, so the client is told.
            headers = {"Connection": "close"}
            return failure(500, f"the server failed ({type(error).__name__})", "server", "internal", headers)


def _failure(
    request: Request, status: int, message: str, field: str, kind: str, headers: Mapping[str, str] | None = None
) -> Response:
    retry = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else {}
    body = _failure_body(request, status, message, field, kind)
    return JSONResponse(body, status_code=status, headers={**(headers or {}), **retry})


def _failure_body(request: Request, status: int, message: str, field: str, kind: str) -> dict[str, Any]:
    return error_body(request.url.path, request.headers.get("user-agent", ""), status, message, field, kind)
