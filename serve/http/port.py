"""The port: taking it before anything is loaded, and telling who has it already."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from toolchain.contracts.errors import PortBusy, SettingsError

NAME = "fimble"
"""How `/health` tells that it is one of ours."""
ANSWER_SECONDS = 1
LISTENING = "0A"
LONGEST_COMMAND = 100


def address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises PortBusy, with who holds it as far as can be told, or SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that name TCP; with it every reply takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # elsewhere it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _busy(host, port) from None
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror})", "Choose another --host or --port."
        ) from None
    return listener


def _busy(host: str, port: int) -> PortBusy:
    what, reached = f"port {port} on {host} is in use", {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    served = _served_at(reached, port)
    if served:
        return PortBusy(f"{what} by {served}", f"Use it at {address(reached, port)}, or choose another --port.")
    process = next(_processes_at(port), None)
    if process:
        return PortBusy(f"{what} by {process}", "End it, or choose another --port.")
    return PortBusy(what, "Choose another --port.")


def _served_at(host: str, port: int) -> str | None:
    """What a server of ours there says of itself."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    with suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", "/health")
        told = json.loads(connection.getresponse().read(1 << 16))
        if isinstance(told, dict) and told.get("server") == NAME:
            models = ", ".join(map(str, told.get("models") or []))
            return f"fimble, which serves {models} (process {told.get('pid')})"
    connection.close()
    return None


def _processes_at(port: int) -> Iterator[str]:
    """The processes that listen on the port, where Linux tells: command line and number."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listeners(table, port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # a process of another user, or one that has ended
            if any(os.readlink(open_file) in sockets for open_file in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield f"{' '.join(words).strip()[:LONGEST_COMMAND]} (process {folder.name})"


def _listeners(table: str, port: int) -> Iterator[str]:
    with suppress(OSError):
        for line in (Path("/proc/net") / table).read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield rest[5]
