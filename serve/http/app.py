"""The HTTP application: routes, and what a request becomes. What a body means is the protocols' part."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serve.completer import Completer
from serve.http.access import Access, client_of
from serve.http.bodies import read_body
from serve.http.failures import body_of, refusal, reply_to
from serve.http.openapi import describe as describe_api
from serve.http.port import NAME
from serve.metrics import CONTENT_TYPE, Metrics
from serve.models import Models, Served
from serve.page import files
from serve.page.status import status
from serve.prompts import check_suffix
from serve.protocols import Body, Exchange, Model, Stream, huggingface, llamacpp, ollama, openai, tabby
from serve.requests import Refused
from serve.scheduler import Scheduler, Turn
from serve.settings import ServeSettings
from toolchain.contracts.errors import FimbleError, StageError

Handler = Callable[[Request], Awaitable[Response]]
Answer = Exchange | Mapping[str, Any]
Asking = Callable[[Mapping[str, Any], Model], Answer | Awaitable[Answer]]
Telling = Callable[[Model], object]
Listing = Callable[[Sequence[Model]], object]
log = logging.getLogger(__name__)


class Server:
    """The models, and who may ask what of them."""

    def __init__(self, completers: Sequence[Completer], settings: ServeSettings) -> None:
        """Raises SettingsError when two have one name."""
        self._access = Access(settings)
        self.metrics = Metrics(
            running=lambda: sum(scheduler.running for scheduler in self.models.schedulers()),
            waiting=lambda: sum(scheduler.waiting for scheduler in self.models.schedulers()),
        )
        self.models = Models(
            completers, lambda one: Scheduler(one, settings.queue_limit, settings.supersede, self.metrics)
        )

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
        listing: dict[str, Listing] = {
            "/info": huggingface.info,
            "/v1/models": openai.models,
            "/api/tags": ollama.tags,
            "/api/ps": ollama.running,
        }
        telling: dict[str, Telling] = {
            "/v1/models/{model:path}": openai.model_card,
            "/props": llamacpp.props,
            "/v1/health": tabby.health,
            "/v1beta/server_setting": tabby.server_setting,
            "/api/version": ollama.version,
        }
        routes = [
            *(Route(path, keyed(self._answering(ask)), methods=["POST"]) for path, ask in asking.items()),
            *(Route(path, keyed(self._answering_with(tell)), methods=["GET"]) for path, tell in telling.items()),
            *(Route(path, keyed(self._answering_with_all(tell)), methods=["GET"]) for path, tell in listing.items()),
            Route("/v1/health", keyed(self._answering_with(tabby.health)), methods=["POST"]),  # older agents
            Route("/v1/events", keyed(self.event), methods=["POST"]),
            Route("/", local(self.alive), methods=["HEAD"]),
            Route("/health", local(self.health), methods=["GET"]),
            Route("/metrics", keyed(self.counted), methods=["GET"]),
            Route("/status", keyed(self.status), methods=["GET"]),
            Route("/", local(files.index), methods=["GET"]),
            Route("/page/{name}", local(files.file), methods=["GET"]),
            Route("/openapi.json", local(self.described), methods=["GET"]),
        ]
        kinds = (FimbleError, Refused, ClientDisconnect, HTTPException, Exception)
        return Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, self._failed))

    def _failed(self, request: Request, error: Exception) -> Response:
        reply = reply_to(request, error)
        if isinstance(error, StageError):
            log.error("a request failed: %s", error)
        self.metrics.record_failure(reply.status_code)
        return reply

    async def counted(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, request: Request) -> Response:
        url, first = str(request.base_url).rstrip("/"), self.models.first.completer.bundle
        return JSONResponse(status([served.description for served in self.models], first, self.metrics, url))

    async def described(self, request: Request) -> Response:
        return JSONResponse(describe_api())

    async def alive(self, request: Request) -> Response:
        return Response()

    async def health(self, request: Request) -> Response:
        for served in self.models:
            problem = await run_in_threadpool(served.completer.backend.problem)
            if problem:
                raise Refused(503, problem, "model", "unhealthy", {"Retry-After": "1"})
        names = [served.model.name for served in self.models]
        return JSONResponse({"status": "ok", "model": names[0], "models": names, "server": NAME, "pid": os.getpid()})

    async def event(self, request: Request) -> Response:
        self.metrics.record_event(tabby.event(await read_body(request)))
        return JSONResponse({})

    def _answering(self, ask: Asking) -> Handler:
        """Answer as a dialect's function says."""

        async def answer(request: Request) -> Response:
            body = await read_body(request)
            served = self._chosen(request, body)
            asked = ask(body, served.model)
            exchange = await asked if inspect.isawaitable(asked) else asked
            if not isinstance(exchange, Exchange):
                return JSONResponse(exchange)
            check_suffix(exchange.wanted.suffix, served.model.spec)  # before a stream, in which it would come too late
            turn = request.state.turn = served.scheduler.enter(client_of(request), exchange.wanted)
            with ExitStack() as leaving:
                leaving.callback(served.scheduler.leave, turn)
                with _ended_when_gone(request, turn):
                    if exchange.stream is None:
                        return JSONResponse(exchange.whole(await turn.completion()))
                    await turn.come()  # before a stream has begun, a refusal can still be the reply
                events = self._events(request, turn, exchange.stream)
                return _Streamed(events, exchange.stream, leaving.pop_all().close)

        return answer

    def _answering_with(self, tell: Telling) -> Handler:
        """Answer with what a dialect tells of a model."""

        async def answer(request: Request) -> Response:
            return JSONResponse(tell(self._chosen(request, {}).model))

        return answer

    def _answering_with_all(self, tell: Listing) -> Handler:
        """Answer with what a dialect tells of all models."""

        async def answer(request: Request) -> Response:
            return JSONResponse(tell([served.model for served in self.models]))

        return answer

    def _chosen(self, request: Request, body: Body) -> Served:
        """The model that the path names, or else the body, where older clients of Ollama's call it `name`."""
        named = (request.path_params.get("model"), body.get("model"), body.get("name"))
        return self.models.named(next((name for name in named if name is not None), None))

    async def _events(self, request: Request, turn: Turn, stream: Stream) -> AsyncGenerator[str, None]:
        """The stream's events; what goes wrong on the way is the last of them, so that the client can read why."""
        framing = stream.framing
        try:
            async for piece in turn.pieces():
                for event in stream.events(piece):
                    yield framing.frame(event)
            if framing.end:
                yield framing.end
        except Exception as error:  # the reply has begun: raised on, it would be cut off before the client can read why
            if isinstance(error, StageError):
                log.error("a stream failed: %s", error)
            elif not isinstance(error, FimbleError | Refused):
                log.exception("a stream failed")
            refused = refusal(request, error)
            self.metrics.record_failure(refused.status)
            yield framing.frame(body_of(request, refused))

    def _for_clients(self, handler: Handler) -> Handler:
        """Check the key as well; a health check needs none."""

        async def keyed(request: Request) -> Response:
            self._access.check_key(request)
            return await handler(request)

        return self._for_this_machine(keyed)

    def _for_this_machine(self, handler: Handler) -> Handler:
        """Check who asks before anything is read."""

        async def local(request: Request) -> Response:
            self._access.check_origin(request)
            return await handler(request)

        return local


class _Streamed(StreamingResponse):
    """A turn's events; when they end, or the client leaves, `leave` is called."""

    def __init__(self, events: AsyncGenerator[str, None], stream: Stream, leave: Callable[[], None]) -> None:
        super().__init__(events, media_type=stream.framing.media_type, headers={"Cache-Control": "no-store"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _complete_either(body: Body, model: Model) -> Exchange:
    """Tabby and OpenAI have the same path."""
    return tabby.complete(body, model) if "segments" in body else openai.complete(body, model)


@contextmanager
def _ended_when_gone(request: Request, turn: Turn) -> Iterator[None]:
    """End the turn should the client leave meanwhile."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        turn.end(ClientDisconnect())

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
