"""Who may ask: this machine's own programs, not the pages that its user visits, and whoever has the key."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request

from serve.requests import Refused
from serve.settings import LOOPBACK, ServeSettings

OTHERS = f"ask at {LOOPBACK[0]} from this machine, or serve others with --host and --api-key"


class Client(NamedTuple):
    """Whoever sends requests, as far as they tell: one program on one machine, with one key."""

    address: str
    agent: str
    key: str


def client_of(request: Request) -> Client:
    """The client that sent `request`."""
    address = request.client.host if request.client else ""
    return Client(address, request.headers.get("user-agent", ""), request.headers.get("authorization", ""))


@dataclass(frozen=True)
class Access:
    """Each check raises Refused, before anything of the request's body is read."""

    settings: ServeSettings

    def check_origin(self, request: Request) -> None:
        """A page that the user visits must not reach the model: neither by its own name for us nor from its origin."""
        if self.settings.host not in LOOPBACK:
            return
        host = request.headers.get("host", "")
        if _hostname(f"//{host}") not in LOOPBACK:
            raise Refused(403, f"the Host header '{host}' does not name this machine; {OTHERS}", "host", "forbidden")
        origin = request.headers.get("origin")
        if origin is None or origin.startswith("vscode-webview://"):
            return
        if _hostname(origin) not in LOOPBACK:
            raise Refused(403, f"pages of {origin} may not ask; {OTHERS}", "origin", "forbidden")

    def check_key(self, request: Request) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self.settings.api_key.encode()):
            raise Refused(
                401, "a valid API key is needed; send it as Authorization: Bearer KEY", "authorization", "unauthorized"
            )


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as an IPv6 address that does not end
        return None
