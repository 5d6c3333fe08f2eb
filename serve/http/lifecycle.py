"""The server in its process: what signals do to it, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from serve.models import Models
from serve.reloading import Reloader

IDLE_SECONDS = 120
"""An idle connection is kept for longer than clients keep theirs, 90 seconds at most: else one could be sent a request
at the moment when the server closes it, which editors show as an error."""
SENT_SECONDS = 0.3
"""For how long what clients have sent already is still read, and refused in words instead of by hanging up."""
LAST_SECONDS = 5
"""What is left for a client to read what it is told at the end."""


class Lifecycle(uvicorn.Server):
    """Told to stop, it refuses what waits, and gives what runs some seconds before that ends with what it has."""

    def __init__(self, config: uvicorn.Config, models: Models, reloader: Reloader, drain_seconds: int) -> None:
        config.timeout_keep_alive = IDLE_SECONDS
        config.timeout_graceful_shutdown = drain_seconds + LAST_SECONDS
        super().__init__(config)
        self._models, self._reloader, self._drain_seconds = models, reloader, drain_seconds
        self._had_terminal = _has_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._reloading = asyncio.create_task(self._reloader.run())
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._reloading.cancel()
        self._models.close()
        await asyncio.sleep(SENT_SECONDS)
        asyncio.get_running_loop().call_later(self._drain_seconds, self._models.cut)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM end the server gently, the second SIGINT at once; only the main thread gets signals.

        uvicorn's own ends by raising the signal again, and being told to stop is no failure.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hang_up(self) -> None:
        """SIGHUP means to load again, but from a terminal that is closed it means to end."""
        if self._had_terminal and not _has_terminal():
            self.should_exit = True
        else:
            self._reloader.ask()


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False
