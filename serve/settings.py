"""Settings of `fimble serve`."""

from __future__ import annotations

from dataclasses import dataclass

from serve.addresses import is_loopback
from toolchain.contracts.errors import SettingsError


@dataclass(frozen=True)
class ServeSettings:
    host: str = "127.0.0.1"
    """The address to listen on; anything but this machine's own needs an API key."""

    port: int = 8000
    """The port to listen on; 0 takes a free one."""

    queue_limit: int = 8
    """Requests that may wait for their turn; more are told to come back later."""

    api_key: str | None = None
    """What clients must send as `Authorization: Bearer KEY`; without it, no key is asked for."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port} is not a port", "Use a number from 1 to 65535, or 0 for any.")
        if self.queue_limit < 0:
            raise SettingsError(f"--queue-limit {self.queue_limit} is negative", "Use 0 or more.")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise SettingsError("--api-key is empty or has characters that no header can carry", "Use plain ASCII.")
        if not is_loopback(self.host) and self.api_key is None:
            raise SettingsError(
                f"--host {self.host} lets other machines in", "Give an --api-key too, or use --host 127.0.0.1."
            )
