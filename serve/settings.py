"""Settings of `fimble serve`."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeSettings:
    host: str = "127.0.0.1"
    """The address to listen on; anything but this machine's own needs an API key."""

    port: int = 8000
    """The port to listen on; 0 takes any free one."""

    queue_limit: int = 8
    """Requests that may wait; more are answered 503 at once."""

    api_key: str | None = None
    """A key that clients must send as `Authorization: Bearer KEY`."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port} is not a port", "Use 0 to 65535.")
        if self.queue_limit < 1:
            raise SettingsError(f"--queue-limit {self.queue_limit} is below 1", "Use 1 or more.")
        if self.api_key == "":
            raise SettingsError("--api-key is empty", "Give a key, or leave it out.")
        if self.host not in LOOPBACK and not self.api_key:
            raise SettingsError(f"--host {self.host} is open to other machines", "Give an --api-key as well.")
