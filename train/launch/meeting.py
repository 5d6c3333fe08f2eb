"""Where the machines of a training meet: at a port of one of them, by whose address the others find it.

PyTorch looks for that machine in its own code, where no signal is answered; so it is waited for here first.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from toolchain.contracts.errors import SettingsError, StageError

PATIENCE = 600
"""Seconds for which a machine looks for the one that all meet at; the agent's own for one another are as many."""


def check(endpoint: str) -> None:
    """Raise SettingsError for a HOST:PORT whose host no machine is known by."""
    try:
        _address(endpoint)
    except OSError as error:
        raise SettingsError(
            f"--rendezvous {endpoint} names no machine that is known here ({error.strerror})",
            "Name one by an address that all can reach.",
        ) from None


def is_here(endpoint: str) -> bool:
    """Whether the endpoint is at an address of this machine's network cards.

    The agent looks only at what the machine's own name stands for, which need not be one.
    """
    try:
        family, address = _address(endpoint)
        if _loops_back(address):
            return False
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


def wait_for_host(endpoint: str, seconds: float = PATIENCE) -> None:
    """Until the machine at `endpoint` listens there, unless it is this one. Raises StageError after so long."""
    family, address = _address(endpoint)
    if _loops_back(address) or is_here(endpoint):
        return
    until = time.monotonic() + seconds
    while True:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(5)
                probe.connect(address)
            return
        except OSError as error:
            if time.monotonic() > until:
                raise failed(endpoint, str(error)) from None
        time.sleep(1)


def failed(endpoint: str, why: str) -> StageError:
    """The error of machines that did not all come."""
    return StageError(
        f"the machines did not meet at {endpoint} ({why})",
        "Start the same command, with the same settings, on all; they have to reach that port.",
    )


def _address(endpoint: str) -> tuple[int, Any]:
    """The kind of network and the address, as sockets take them. Raises OSError for an unknown host."""
    host, _, port = endpoint.rpartition(":")
    (family, _, _, _, address), *_ = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    return family, address


def _loops_back(address: Any) -> bool:
    return address[0] in ("127.0.0.1", "::1")
