"""Running the server: the port first, then the models, then requests until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from serve import logs
from serve.backends import Backend
from serve.backends.opening import open_backend
from serve.bundle import Bundle, open_bundle
from serve.completer import Completer
from serve.http.port import address, listen
from serve.postprocessing import rules
from serve.settings import ServeSettings
from serve.sources import Source
from toolchain.contracts import extras
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.progress import Progress, Silent

LIBRARIES = ("jinja2", "prometheus_client", "starlette", "uvicorn")


def run(
    sources: Sequence[Source],
    settings: ServeSettings,
    progress: Progress,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the bundles at `sources` until SIGINT or SIGTERM, and return; requests in progress are finished first.

    `ready` is called with the server's address once requests are taken. Raises PortBusy, ArtifactError, SettingsError
    or MissingExtra before anything is served.
    """
    extras.need(*LIBRARIES)
    import uvicorn

    from serve.http.app import Server
    from serve.http.lifecycle import Lifecycle
    from serve.http.request_log import RequestLog
    from serve.reloading import Reloader

    if settings.upstream and len(sources) > 1:
        raise SettingsError("all models of an upstream have one tokenizer", "Give one folder.")
    with listen(settings.host, settings.port) as listener:
        url = address(settings.host, listener.getsockname()[1])
        stamps = [source.stamp() for source in sources]
        completers = (
            _open_upstream(sources[0].find(), settings)
            if settings.upstream
            else [_open(source, settings, progress) for source in sources]
        )
        server = Server(completers, settings)
        progress.say(f"serving {', '.join(completer.bundle.name for completer in completers)} at {url}")
        ready(url)
        logs.set_up(settings.log_format)
        config = uvicorn.Config(
            RequestLog(server.app(), settings.log_prompts),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
        )
        watched = [] if settings.upstream else sources
        reloader = Reloader(watched, server.models, lambda source: _open(source, settings, Silent()), stamps)
        Lifecycle(config, server.models, reloader, settings.drain_seconds).run(sockets=[listener])
        progress.say("stopped")


def check(settings: ServeSettings) -> None:
    """Raise what would keep `run` from serving at this address, long before there is a bundle to serve."""
    extras.need(*LIBRARIES)
    listen(settings.host, settings.port).close()


def _open(source: Source, settings: ServeSettings, progress: Progress) -> Completer:
    """The bundle at `source`, loaded."""
    bundle = open_bundle(source.find())
    backend = open_backend(bundle, settings.engine, progress)
    return _completer(replace(bundle, name=source.name or bundle.name), backend, settings)


def _open_upstream(folder: Path, settings: ServeSettings) -> list[Completer]:
    """The upstream's models, with what `folder` says of their prompts."""
    extras.need("httpx")
    from serve.backends.upstream import open_upstream

    opened = open_upstream(
        settings.upstream or "", settings.upstream_key, settings.upstream_model, folder, settings.concurrency
    )
    return [_completer(bundle, backend, settings) for bundle, backend in opened]


def _completer(bundle: Bundle, backend: Backend, settings: ServeSettings) -> Completer:
    return Completer(bundle, backend, rules.without(settings.without), settings.deadline_ms)
