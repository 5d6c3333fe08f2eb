"""Which host names mean this machine and nothing else."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without its port, can only be this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(authority: str) -> str:
    """The host in a `Host` header or an origin's authority, or the empty string where there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def may_call(origin: str, host_header: str) -> bool:
    """Whether a web page of this `Origin` may use the server: only pages from this machine or from the server."""
    scheme, _, authority = origin.partition("://")
    if scheme not in ("http", "https"):
        return False
    return is_loopback(host_of(authority)) or bool(host_header) and authority.lower() == host_header.lower()
