"""Turns at one model: a bounded queue before its workers, and what a request is told when there is no room in it.

Everything here but `_produce` runs in the event loop's thread, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve.completer import Completer
from serve.engine.engine import Statistics
from serve.metrics import Metrics
from serve.requests import Completion, CompletionRequest, Refused
from serve.superseding import supersedes

MEAN_OF = 8
KEYSTROKE_SECONDS = 0.3
"""Whoever types asks again within this time."""
LONGEST_WAIT_SECONDS = 5


class Turn:
    """One request's turn at the model. What comes of it can be read while it runs; who stops reading leaves it."""

    def __init__(self, client: Hashable, wanted: CompletionRequest, model: str) -> None:
        self.client, self.wanted, self.model = client, wanted, model
        self.waited = 0.0
        self.completed: Completion | None = None
        self.superseded = False
        self.over = threading.Event()
        """Set when nobody wants the rest: the model then ends at its next step."""
        self.arrived = self._begun = time.monotonic()
        self._pieces: asyncio.Queue[str | Completion | Exception] = asyncio.Queue()
        self._has_come = asyncio.Event()
        self._failure: Exception | None = None

    async def come(self) -> None:
        """Wait for the turn. Raises what has ended it meanwhile, such as Refused."""
        await self._has_come.wait()
        if self._failure is not None:
            raise self._failure

    async def pieces(self) -> AsyncGenerator[str | Completion, None]:
        """Pieces of text, then the completion. Raises what the model did, or Refused when the turn never comes."""
        while True:
            piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if isinstance(piece, Completion):
                return

    async def completion(self) -> Completion:
        async for piece in self.pieces():
            if isinstance(piece, Completion):
                return piece
        raise AssertionError("a turn ends with a completion or an error")

    def begin(self) -> None:
        self._begun = time.monotonic()
        self.waited = self._begun - self.arrived
        self._has_come.set()

    def seconds(self) -> float:
        """For how long it has run."""
        return time.monotonic() - self._begun

    def give(self, piece: str | Completion | Exception) -> None:
        if isinstance(piece, Completion) and self.completed is None:
            self.completed = piece
        self._pieces.put_nowait(piece)

    def end(self, last: Completion | Exception) -> None:
        """End it now, with `last` as all that is still read."""
        self.over.set()
        self._failure = last if isinstance(last, Exception) else None
        self._has_come.set()
        self.give(last)


class Scheduler:
    """At most `queue_limit` turns wait for one of the backend's, and of these at most half are one client's."""

    def __init__(self, completer: Completer, queue_limit: int, superseding: bool, metrics: Metrics) -> None:
        self._completer, self._limit, self._superseding, self._metrics = completer, queue_limit, superseding, metrics
        self._concurrency = completer.backend.concurrency
        self._workers = ThreadPoolExecutor(self._concurrency, thread_name_prefix="model")
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        self._mean_seconds = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def enter(self, client: Hashable, wanted: CompletionRequest) -> Turn:
        """A turn for `wanted`, which ends those that it supersedes. Raises Refused when there is no room to wait."""
        if self._closed:
            raise self._stopping()
        superseded = self._superseded(client, wanted)
        turn = Turn(client, wanted, self._completer.bundle.name)
        if self.running >= self._concurrency:
            self._check_room(client, [waiting for waiting in self._waiting if waiting not in superseded])
            self._waiting.append(turn)
        else:
            self._start(turn)
        for older in superseded:
            self._metrics.record_superseded()
            self.leave(older)
            older.superseded = True
            older.end(Completion("", "cancelled", 0, Statistics()))
        return turn

    def leave(self, turn: Turn) -> None:
        """Nobody reads the turn any more: its place is free at once, and the model at its next step."""
        turn.over.set()
        if turn in self._waiting:
            self._waiting.remove(turn)

    def close(self) -> None:
        """Take no more; those that wait are refused, those that run go on."""
        self._closed = True
        for turn in self._waiting:
            turn.end(self._stopping())
        self._waiting.clear()

    def cut(self) -> None:
        """End those that run with what they have."""
        for turn in self._running:
            turn.over.set()

    def _superseded(self, client: Hashable, wanted: CompletionRequest) -> list[Turn]:
        if not self._superseding:
            return []
        held = [turn for turn in (*self._waiting, *self._running) if turn.client == client and not turn.over.is_set()]
        return [turn for turn in held if supersedes(wanted, turn.wanted)]

    def _check_room(self, client: Hashable, waiting: list[Turn]) -> None:
        share = max(self._limit // 2, 1)
        seconds = math.ceil(min(max(self._mean_seconds / self._concurrency, 1), 60))
        retry, again = {"Retry-After": str(seconds)}, f"try again after {seconds} s"
        if sum(turn.client == client for turn in waiting) >= share:
            message = f"{share} requests of this client wait already, which is its share; {again}"
            raise Refused(429, message, "queue", "overloaded", retry)
        if len(waiting) >= self._limit:
            raise Refused(503, f"the server is busy; {again}", "queue", "overloaded", retry)

    def _stopping(self) -> Refused:
        return Refused(
            503, "the server is stopping; try again when it is up", "server", "overloaded", {"Retry-After": "1"}
        )

    def _next(self) -> Turn:
        """Whose turn it is: the last to have asked of those that are not typing on, but nobody waits too long.

        In a long queue the first is the likeliest to have lost patience, and would soon ask anew.
        """
        now, oldest = time.monotonic(), self._waiting[0]
        if now - oldest.arrived >= LONGEST_WAIT_SECONDS:
            return oldest
        quiet = [turn for turn in self._waiting if now - turn.arrived >= KEYSTROKE_SECONDS]
        return quiet[-1] if quiet else oldest

    def _start(self, turn: Turn) -> None:
        turn.begin()
        self._running.add(turn)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._workers, self._produce, turn, loop)
        work.add_done_callback(lambda done: self._finish(turn, done))

    def _produce(self, turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
        """In a worker's thread: the model's pieces, each given over to the event loop's."""
        for piece in self._completer.stream(turn.wanted, turn.over.is_set):
            loop.call_soon_threadsafe(self._give, turn, piece)

    def _give(self, turn: Turn, piece: str | Completion) -> None:
        if isinstance(piece, Completion):
            self._metrics.record_completion(piece, turn.waited)
        turn.give(piece)

    def _finish(self, turn: Turn, done: asyncio.Future[Any]) -> None:
        self._running.discard(turn)
        seconds = turn.seconds()
        self._mean_seconds += (seconds - self._mean_seconds) / MEAN_OF if self._mean_seconds else seconds
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            turn.give(error)
        if self._waiting and self.running < self._concurrency:
            turn = self._next()
            self._waiting.remove(turn)
            self._start(turn)
