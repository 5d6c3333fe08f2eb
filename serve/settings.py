"""Settings of `fimble serve`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from serve.postprocessing import rules
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import at_least, check

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeSettings:
    host: str = "127.0.0.1"
    """The address to listen on; anything but this machine's own needs an API key."""

    port: int = 8000
    """The port to listen on; 0 takes any free one."""

    queue_limit: int = 16
    """Requests that may wait, of one client half as many; more are answered 429 or 503 at once."""

    supersede: bool = True
    """Whether an editor's newer request ends its older ones for the same place in a file."""

    api_key: str | None = None
    """A key that clients must send as `Authorization: Bearer KEY`."""

    without: tuple[str, ...] = ()
    """A rule of completion to leave out, by its name; may be given repeatedly."""

    engine: Literal["fimble", "mlc-llm"] | None = None
    """What runs the model: our own engine, or the mlc_llm that is installed; unless given, what it was compiled for."""

    upstream: str | None = None
    """The address of a server with OpenAI's API that generates instead, such as http://host:8000/v1."""

    upstream_model: str | None = None
    """The upstream's model for requests that name none of its models; its first unless given."""

    upstream_key: str | None = None
    """The key that the upstream wants."""

    concurrency: int = 32
    """Requests that a model of an upstream works on at once; more wait here."""

    deadline_ms: int = 30_000
    """Milliseconds after which an editor is answered with what there is by then."""

    drain_seconds: int = 10
    """Seconds that a server which is told to stop gives what it is computing, before that ends with what there is."""

    log_format: Literal["text", "json", "none"] = "text"
    """How a request is logged, in one line without what is in it; json is for all lines, none for what goes wrong."""

    log_prompts: bool = False
    """Log also what users typed and what they were answered."""

    def __post_init__(self) -> None:
        check("--port", self.port, 0 <= self.port <= 65535, "a whole number from 0 to 65535")
        at_least("--concurrency", self.concurrency, 1)
        url = self.upstream or "http://host/v1"
        check("--upstream", self.upstream, re.match("https?://[^/]", url) is not None, "http://HOST:PORT/v1")
        if self.upstream and self.engine:
            raise SettingsError("an upstream has its own engine", "Give --upstream or --engine.")
        at_least("--queue-limit", self.queue_limit, 1)
        at_least("--deadline-ms", self.deadline_ms, 1)
        at_least("--drain-seconds", self.drain_seconds, 0)
        for name in self.without:
            check("--without", name, name in rules.NAMES, f"names of rules: {', '.join(rules.NAMES)}")
        # Clients differ in how they send other characters, and leading and trailing spaces are lost on the way.
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise SettingsError("--api-key cannot be sent as it is", "Use ASCII letters, digits and signs, no spaces.")
        if self.host not in LOOPBACK and not self.api_key:
            raise SettingsError(f"--host {self.host} is open to other machines", "Give an --api-key as well.")
