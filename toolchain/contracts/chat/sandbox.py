"""The program that renders chat templates, in a process of its own (`renderer.py` runs it).

A template comes with a model and is a stranger's code. Jinja's sandbox keeps it from Python's inside, but not from
running or growing without end, and no thread that does so can be stopped. So the process gives up, before it sees a
template, what it could do harm with: opening files and sockets, writing files, other processes, and memory without
bound. Its parent ends it when it takes too long, and so does its own alarm, should the parent be gone. Windows has
none of these limits but the parent's, and macOS does not hold to the one on memory.

What templates may use is what transformers offers them: `raise_exception`, `strftime_now`, a `tojson` that leaves HTML
alone, `break` and `continue`, and the tag `generation`, which only marks text.

Requests and replies are JSON, one a line: `{"template": …, "variables": {…}}`, and `{"text": …}`, `{"refused": …}` with
what the template raised, or `{"broken": …, "where": …}`, the second without anything of the messages.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

MOST_SECONDS = 5
MOST_MEMORY = 512 << 20
MOST_CHARACTERS = 8 << 20


class Refusal(Exception):
    """A template called `raise_exception`."""


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    import jinja2.debug  # noqa: F401  # once confined, nothing can be imported

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which first finishes what is in progress
    answer("{{ strftime_now('%c') }}{{ none.x.y }}", {})
    confine()
    for line in sys.stdin.buffer:
        _set_alarm(MOST_SECONDS + 1)
        reply = answer(**json.loads(line))
        _set_alarm(0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def answer(template: str, variables: Mapping[str, Any]) -> dict[str, str]:
    """What is told of one request."""
    try:
        text = _compiled(template).render(**variables)
    except Refusal as refusal:
        return {"refused": str(refusal)[:500]}
    except Exception as error:  # whatever a template's code can raise, running out of memory included
        return {"broken": f"{type(error).__name__}: {error}"[:500], "where": _where(error)}
    if len(text) > MOST_CHARACTERS:
        told = f"it writes {len(text)} characters"
        return {"broken": told, "where": told}
    return {"text": text}


def _where(error: Exception) -> str:
    """The kind of an error and the template's line, which quote nothing of what was rendered."""
    line = getattr(error, "lineno", None)
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == "<template>":
            line = at.tb_lineno
        at = at.tb_next
    return type(error).__name__ + (f" in line {line}" if line else "")


def confine() -> None:
    """Give up files, sockets, other processes and memory beyond MOST_MEMORY, for good, as far as the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: MOST_MEMORY,
    }
    for what, most in limits.items():
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


@cache
def _compiled(template: str) -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # as the base class has it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment.from_string(template)


def _refuse(message: object) -> None:
    raise Refusal(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _set_alarm(seconds: int) -> None:
    """Have the system end this process after so many seconds; 0 takes that back."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
