"""The server's log on standard error, for people or, as one JSON object a line, for programs."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from toolchain.contracts.errors import FimbleError

Format = Literal["text", "json", "none"]
log = logging.getLogger("fimble")


def set_up(kind: Format) -> None:
    """Log warnings of all libraries and what the server itself tells; for `none` without a line for each request."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines() if kind == "json" else Words())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("fimble").setLevel(logging.INFO)
    logging.getLogger("fimble.requests").disabled = kind == "none"
    if kind == "json":  # what would else be written in lines of its own
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


def is_json() -> bool:
    """Whether all that is written has to be JSON: `set_up` was called for it."""
    return any(isinstance(handler.formatter, Lines) for handler in logging.getLogger().handlers)


def log_failure(error: FimbleError) -> None:
    """What ends the server, with what to do about it."""
    log.error(error.message, extra={"facts": {"next_step": error.next_step}})


class Lines(logging.Formatter):
    """JSON, with the facts of a record beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class Words(logging.Formatter):
    """One line of text; of facts, those that say something, as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        facts = (f"{name}={_word(value)}" for name, value in _facts(record).items() if value not in (None, ""))
        line = " ".join([time.strftime("%H:%M:%S", time.localtime(record.created)), record.getMessage(), *facts])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the program failed", exc_info=(kind, error, trace))


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    return facts


def _word(value: object) -> str:
    """A value that cannot be taken for two, nor write a line of its own."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
