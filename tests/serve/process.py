"""`fimble serve` as a process of its own. Only the model is scripted: slowly, it repeats its bundle's first letter."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from serve import reloading, server
from serve.backends import native
from serve.bundle import Bundle
from serve.settings import ServeSettings
from serve.sources import Source
from tests.serve.scripted import ScriptedRunner, repeats
from toolchain.contracts.progress import Progress, Silent
from toolchain.workspace import named_artifact

ROOT = Path(__file__).parents[2]
SECONDS_A_TOKEN = 0.02


class Told(Silent):
    def say(self, line: str) -> None:
        print(line, flush=True)


def load_runner(bundle: Bundle, progress: Progress) -> ScriptedRunner:
    answer = repeats(bundle.tokenizer.encode(bundle.folder.name[0]).ids[0])
    runner = ScriptedRunner(bundle.tokenizer.get_vocab_size(), answer, bundle.context_size)
    runner.seconds_a_call = SECONDS_A_TOKEN
    return runner


def main() -> None:
    options, *folders = sys.argv[1:]
    native.load_runner = load_runner
    reloading.LOOK_SECONDS = 0.1
    sources = [Source(partial(named_artifact, Path(folder))) for folder in folders]
    server.run(sources, ServeSettings(**{"port": 0, "log_format": "none", **json.loads(options)}), Told())


@contextmanager
def process(
    *folders: Path, terminal: int | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, with all that it writes, and its address. A `terminal`, where given, is its own."""

    def take_terminal() -> None:
        if terminal is not None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-P", "-m", "tests.serve.process", json.dumps(settings), *map(str, folders)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=terminal is not None,
        preexec_fn=take_terminal,
    ) as running:
        assert running.stdout is not None
        try:
            line = running.stdout.readline()
            found = re.fullmatch(r"serving .* at (http://127\.0\.0\.1:\d+)\n", line)
            assert found, (line, running.stderr)
            yield running, found[1]
        finally:
            running.kill()


if __name__ == "__main__":
    main()
