"""Rendering a chat template in another process, which is ended when it takes too long (`sandbox.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from toolchain.contracts.chat.sandbox import MOST_SECONDS
from toolchain.contracts.errors import TemplateFailure, TemplateRefusal

MOST_BYTES = 64 << 20
KEPT = ("SYSTEMROOT", "TZ")
"""What the process may know of our environment: what Python needs on Windows, and the time zone. No keys."""


class Renderer:
    """One process, started when it is first needed and kept as long as it answers; callers wait for each other."""

    def __init__(self, seconds: float = MOST_SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text that `template` makes of `variables`, which are JSON's values.

        Raises TemplateRefusal when the template refuses the messages, TemplateFailure when it fails or takes too long.
        """
        asked = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._turn:
            process = self._process or self._start()
            begun = time.monotonic()
            reply = _ask(process, asked, self._seconds)
            if isinstance(reply.get("text"), str):
                self._process = process
                return str(reply["text"])
            # After anything else it is not relied on again.
            self._process = None
            process.kill()
            process.wait()
        if "refused" in reply:
            raise TemplateRefusal(f"the model's chat template refuses them: {reply['refused']}")
        overran = time.monotonic() - begun >= self._seconds
        ended = f"it took longer than {self._seconds:g} seconds" if overran else "its process ended"
        raise TemplateFailure(
            f"the model's chat template cannot be rendered ({reply.get('broken', ended)})",
            "Mend it beside the model's tokenizer, and make what came of it again.",
            where=str(reply.get("where", ended)),
        )

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolchain.contracts.chat.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        weakref.finalize(self, process.kill)
        return process


def _ask(process: subprocess.Popen[bytes], asked: bytes, seconds: float) -> dict[str, Any]:
    """Its reply, or nothing when it has ended, or was ended after `seconds`."""
    assert process.stdin
    assert process.stdout
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(asked)
        process.stdin.flush()
        reply = json.loads(process.stdout.readline(MOST_BYTES))
    except (OSError, ValueError):
        return {}
    finally:
        timer.cancel()
    return reply if isinstance(reply, dict) else {}
