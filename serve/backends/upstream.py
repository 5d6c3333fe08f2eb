"""Another server with OpenAI's API, such as vLLM: it generates, and everything else is done here.

Prompts are sent as token ids, which vLLM, llama.cpp's server and this server take: what a user typed cannot become a
control token on the way. `stop_token_ids` is vLLM's; servers that do not know it read the same tokens in `stop`.
The stream's events are those of https://platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from serve.backends import BackendError
from serve.backends.source import open_source
from serve.bundle import Bundle
from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import suggest

TRIES = 3
WAIT_SECONDS = 0.2
CONNECT_SECONDS, SILENT_SECONDS = 5, 120
LOOK_SECONDS = 0.05
BUSY = (429, 502, 503, 504)


@dataclass(frozen=True)
class Offered:
    """A model that an upstream has; `context_size` in tokens where it tells."""

    name: str
    context_size: int | None


class Upstream:
    """One model of an upstream. Safe for as many threads as `concurrency` says."""

    def __init__(self, client: httpx.Client, model: str, bundle: Bundle, concurrency: int) -> None:
        self.concurrency = concurrency
        self._client, self._model = client, model
        self._stop, self._stop_ids = list(bundle.spec.control_tokens), sorted(bundle.end_ids)

    def problem(self) -> str | None:
        """Asks the upstream, which takes a moment."""
        try:
            names = [model.name for model in offered(self._client)]
        except SettingsError as error:
            return error.message
        return None if self._model in names else f"the upstream has no model {self._model} any more"

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        cancelled: Callable[[], bool],
        statistics: Statistics,
        heal: bool = False,
    ) -> Generator[str, None, None]:
        """As `Backend` has it. Raises BackendError.

        A prompt with `max_tokens` 0, which warms a cache, is left to the upstream's own. Servers cannot be told what to
        begin with, so nothing is healed.
        """
        if not max_tokens:
            statistics.ending = "length"
            return
        begun = time.monotonic()
        with self._asked(self._body(prompt, sampling, max_tokens), cancelled) as events:
            for event in events:
                _count(event.get("usage"), statistics)
                for choice in event.get("choices") or []:
                    text = choice.get("text") or ""
                    statistics.seconds = time.monotonic() - begun
                    statistics.first_token_seconds = statistics.first_token_seconds or statistics.seconds
                    statistics.generated += bool(text)
                    yield text
                    reason = choice.get("finish_reason")
                    if reason is not None:
                        statistics.ending = "length" if reason == "length" else "end_token"
                if cancelled():
                    return

    def _body(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": self._stop,
            "stop_token_ids": self._stop_ids,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1.0:
            body["repetition_penalty"] = sampling.repetition_penalty
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return body

    @contextmanager
    def _asked(self, body: Mapping[str, Any], cancelled: Callable[[], bool]) -> Iterator[Iterator[dict[str, Any]]]:
        """The stream's events; a busy or unreachable upstream is asked again, before anything has come of it."""
        for left in reversed(range(TRIES)):
            try:
                with self._client.stream("POST", "completions", json=body) as reply:
                    if reply.status_code in BUSY and left and not cancelled():
                        time.sleep(_pause(reply))
                        continue
                    if reply.status_code != 200:
                        raise BackendError(_told(reply), "See the upstream's log.")
                    with _ended_when(cancelled, reply):
                        yield _events(reply, cancelled)
                    return
            except httpx.ConnectError as error:
                if not left or cancelled():
                    raise BackendError(
                        f"the upstream {self._client.base_url} cannot be reached ({error})", "Is it running?"
                    ) from None
                time.sleep(WAIT_SECONDS)
            except httpx.HTTPError as error:
                if cancelled():
                    return
                raise BackendError(
                    f"the upstream {self._client.base_url} broke off ({type(error).__name__})",
                    "See the upstream's log.",
                ) from None


def connect(url: str, key: str | None) -> httpx.Client:
    """A client of the API at `url`, such as http://host:8000/v1. Proxies of the environment are not used."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(base_url=f"{url.rstrip('/')}/", headers=headers, timeout=timeout, trust_env=False)


def open_upstream(
    url: str, key: str | None, wanted: str | None, folder: Path, concurrency: int
) -> list[tuple[Bundle, Upstream]]:
    """Every model of the upstream at `url`, adapters among them, and what its prompts are made with; `wanted` first.

    Raises SettingsError for an upstream that does not answer or has no such model.
    """
    client = connect(url, key)
    models = {model.name: model for model in offered(client)}
    if wanted and wanted not in models:
        raise SettingsError(f"the upstream has no model '{wanted}'", suggest(wanted, models))
    first = wanted or next(iter(models))
    opened = []
    for model in sorted(models.values(), key=lambda model: model.name != first):
        bundle = replace(open_source(folder, model.context_size), name=model.name)
        opened.append((bundle, Upstream(client, model.name, bundle, concurrency)))
    return opened


def offered(client: httpx.Client) -> list[Offered]:
    """The models that the upstream has. Raises SettingsError when it does not tell as OpenAI's API does."""
    try:
        reply = client.get("models", timeout=CONNECT_SECONDS)
        if reply.status_code in (401, 403):
            raise SettingsError(f"the upstream {client.base_url} refuses: {_told(reply)}", "Check --upstream-key.")
        if reply.status_code != 200:
            raise SettingsError(
                f"the upstream {client.base_url} lists no models: {_told(reply)}", "Give an address that ends in /v1."
            )
        found = [Offered(str(card["id"]), card.get("max_model_len")) for card in reply.json()["data"]]
    except httpx.HTTPError as error:
        raise SettingsError(f"the upstream {client.base_url} cannot be reached ({error})", "Start it first.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        found = []
    if not found:
        raise SettingsError(
            f"the upstream {client.base_url} lists no models as OpenAI's API does",
            "Give an address that ends in /v1.",
        )
    return found


def _events(reply: httpx.Response, cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    for line in reply.iter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise BackendError("the upstream sent an event that is no JSON", "See the upstream's log.") from None
        if not isinstance(event, dict) or event.get("error"):
            raise BackendError(f"the upstream failed: {_message(event)}", "See the upstream's log.")
        yield event
    if not cancelled():
        raise BackendError("the upstream's stream ended too early", "See the upstream's log.")


@contextmanager
def _ended_when(cancelled: Callable[[], bool], reply: httpx.Response) -> Iterator[None]:
    """End the connection as soon as `cancelled` says so, also while nothing comes; the upstream then stops as well."""
    done = threading.Event()
    connection = reply.extensions["network_stream"].get_extra_info("socket")

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            if cancelled():
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _count(usage: Any, statistics: Statistics) -> None:
    """What the upstream says in its last event, where it says so; until then each piece counts as a token."""
    if not isinstance(usage, Mapping):
        return
    details = usage.get("prompt_tokens_details") or {}
    statistics.reused = int(details.get("cached_tokens") or 0)
    statistics.prefilled = int(usage.get("prompt_tokens") or 0) - statistics.reused
    statistics.generated = int(usage.get("completion_tokens") or 0)


def _pause(reply: httpx.Response) -> float:
    """Seconds to wait before a busy upstream is asked again: as it says, but no longer than a user's patience."""
    try:
        return min(max(float(reply.headers.get("retry-after", WAIT_SECONDS)), WAIT_SECONDS), 1.0)
    except ValueError:
        return WAIT_SECONDS


def _told(reply: httpx.Response) -> str:
    """A refusal in the upstream's own words."""
    try:
        words = _message(json.loads(reply.read()))
    except ValueError:
        words = "no reason given"
    return f"status {reply.status_code}, {words[:300]}"


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, Mapping) else body
    return str(error.get("message", error) if isinstance(error, Mapping) else error)
