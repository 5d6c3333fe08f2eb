"""Running the server: the port first, then the model, then requests until it is told to stop."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve.backends import Backend
from serve.backends.opening import open_backend
from serve.bundle import Bundle, open_bundle
from serve.completer import Completer
from serve.postprocessing import rules
from serve.settings import ServeSettings
from toolchain.contracts import extras
from toolchain.contracts.errors import PortBusy, SettingsError
from toolchain.contracts.progress import Progress

if TYPE_CHECKING:
    import uvicorn

DRAIN_SECONDS = 10
LIBRARIES = ("jinja2", "prometheus_client", "starlette", "uvicorn")


def run(
    folder: Path, settings: ServeSettings, progress: Progress, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve the bundle at `folder` until SIGINT or SIGTERM, and return; requests in progress are finished first.

    `ready` is called with the server's address once requests are taken. Raises PortBusy, ArtifactError or MissingExtra
    before anything is served.
    """
    extras.need(*LIBRARIES)
    import uvicorn

    from serve.app import Server

    with _listen(settings) as listener:
        url = address(settings.host, listener.getsockname()[1])
        bundle, backend = _open(folder, settings, progress)
        completer = Completer(bundle, backend, rules.without(settings.without), settings.deadline_ms)
        progress.say(f"serving {bundle.name} at {url}")
        ready(url)
        config = uvicorn.Config(
            Server(completer, settings).app(),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
            ws="none",
        )
        server = uvicorn.Server(config)
        # uvicorn's own handling ends by raising the signal again, and being told to stop is no failure.
        server.capture_signals = lambda: _stopping(server)  # type: ignore[method-assign]
        server.run(sockets=[listener])
        progress.say("stopped")


def check(settings: ServeSettings) -> None:
    """Raise what would keep `run` from serving at this address, long before there is a bundle to serve."""
    extras.need(*LIBRARIES)
    _listen(settings).close()


def address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _open(folder: Path, settings: ServeSettings, progress: Progress) -> tuple[Bundle, Backend]:
    """What is served, and what generates for it."""
    if settings.upstream:
        extras.need("httpx")
        from serve.backends.upstream import open_upstream

        return open_upstream(
            settings.upstream, settings.upstream_key, settings.upstream_model, folder, settings.concurrency
        )
    bundle = open_bundle(folder)
    return bundle, open_backend(bundle, settings.engine, progress)


@contextmanager
def _stopping(server: uvicorn.Server) -> Iterator[None]:
    """Have SIGINT and SIGTERM end `server` gently, the second SIGINT at once; only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(settings: ServeSettings) -> socket.socket:
    """A bound socket, so that a busy port is told before the model is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that name TCP; with it every reply takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # elsewhere it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(f"port {settings.port} on {settings.host} is in use", "Choose another --port.") from None
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror})", "Choose another --host or --port."
        ) from None
    return listener
