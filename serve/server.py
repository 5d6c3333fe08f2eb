"""Running the server: the port first, then the model, then requests until it is told to stop."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from serve.bundle import load_runner, open_bundle
from serve.completer import Completer
from serve.engine.engine import Engine
from serve.settings import ServeSettings
from toolchain.contracts.errors import MissingExtra, PortBusy, SettingsError
from toolchain.contracts.progress import Progress

DRAIN_SECONDS = 10


def run(folder: Path, settings: ServeSettings, progress: Progress) -> None:
    """Serve the bundle at `folder` until SIGINT or SIGTERM; requests in progress are finished first.

    Raises PortBusy, ArtifactError or MissingExtra before anything is served.
    """
    bundle = open_bundle(folder)
    try:
        import uvicorn

        from serve.app import Server
    except ImportError as error:
        raise MissingExtra(f"{error.name} is not installed", "Run: pip install 'fimble[serve]'") from None
    listener = _listen(settings)
    with listener:
        url = address(settings.host, listener.getsockname()[1])
        progress.start(f"loading {bundle.name}")
        completer = Completer(bundle, Engine(load_runner(bundle), bundle.prefill_chunk))
        progress.finish()
        progress.say(f"serving {bundle.name} at {url}")
        config = uvicorn.Config(
            Server(completer, settings).app(),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
        )
        uvicorn.Server(config).run(sockets=[listener])
        progress.say("stopped")


def address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(settings: ServeSettings) -> socket.socket:
    """A bound socket, so that a busy port is told before the model is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(f"port {settings.port} on {settings.host} is in use", "Choose another --port.") from None
        raise SettingsError(f"cannot listen on {settings.host}:{settings.port} ({error.strerror})") from None
    return listener
