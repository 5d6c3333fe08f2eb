"""What the server counts, for Prometheus and for the status page: numbers alone, never a user's text.

The names behind `fimble_` are vLLM's where vLLM has one, so that its dashboards need only another prefix.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from serve.requests import Completion, Finish

CONTENT_TYPE = CONTENT_TYPE_LATEST
REASONS: dict[Finish, str] = {"stop": "stop", "length": "length", "cancelled": "abort"}
EVENTS = ("view", "select", "dismiss")
RECENT = 60
FIRST_TOKEN_SECONDS = (
    *(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1, 1.5, 2.5, 5, 10, 20, 40),
)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1)
REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 20, 40, 60)


@dataclass(frozen=True)
class Served:
    """One completion in numbers; seconds count from the request's arrival, so what it waited is in them."""

    number: int
    at: float
    finish: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: float
    first_token_seconds: float | None
    token_seconds: float | None
    seconds: float


class Metrics:
    """The counters of one server; it is asked how many requests it computes and how many wait."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.recent: deque[Served] = deque(maxlen=RECENT)
        self._served = 0
        ProcessCollector(registry=registry)

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(f"fimble_{name}", text, registry=registry).set_function(value)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fimble_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"fimble_{name}", text, buckets=buckets, registry=registry)

        gauge("num_requests_running", "Requests being computed.", running)
        gauge("num_requests_waiting", "Requests waiting for their turn.", waiting)
        self._first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_SECONDS
        )
        self._token = histogram(
            "request_time_per_output_token_seconds",
            "Mean time of a request's tokens after the first.",
            TOKEN_SECONDS,
        )
        self._queue = histogram("request_queue_time_seconds", "What a request waited for its turn.", REQUEST_SECONDS)
        self._request = histogram(
            "e2e_request_latency_seconds", "From a request's arrival to its last token.", REQUEST_SECONDS
        )
        self._prompt = counter("prompt_tokens", "Prompt tokens computed or found in the cache.")
        self._generated = counter("generation_tokens", "Tokens generated.")
        self._queries = counter("prefix_cache_queries", "Prompt tokens looked for in the KV cache.")
        self._hits = counter("prefix_cache_hits", "Prompt tokens found in the KV cache.")
        self._finished = counter("request_success", "Completions by what ended them.", "finished_reason")
        self._failed = counter("request_failure", "Requests that got an error, by HTTP status; 499: it left.", "status")
        self._superseded = counter("request_superseded", "Requests that a newer one of the same client made needless.")
        self._events = counter("completion_events", "What editors said of completions.", "type")
        self._accepted = counter("accepted_characters", "Characters of the completions that were accepted.")
        self._retained = counter("retained_characters", "Characters of those that were still there later.")
        for finish in get_args(Finish):
            self._finished.labels(REASONS[finish])
        for kind in EVENTS:
            self._events.labels(kind)

    def record_completion(self, completion: Completion, queue_seconds: float) -> None:
        """Count a completion, also one that was given up, after it waited for `queue_seconds`."""
        said = completion.statistics
        reason = REASONS[completion.finish]
        first = queue_seconds + said.first_token_seconds if said.generated else None
        each = (said.seconds - said.first_token_seconds) / (said.generated - 1) if said.generated > 1 else None
        seconds = queue_seconds + said.seconds
        self._finished.labels(reason).inc()
        self._prompt.inc(said.reused + said.prefilled)
        self._queries.inc(completion.prompt_tokens)
        self._hits.inc(said.reused)
        self._generated.inc(said.generated)
        self._queue.observe(queue_seconds)
        self._request.observe(seconds)
        if first is not None:
            self._first_token.observe(first)
        if each is not None:
            self._token.observe(each)
        self._served += 1
        self.recent.append(
            Served(
                number=self._served,
                at=time.time(),
                finish=reason,
                prompt_tokens=completion.prompt_tokens,
                cached_tokens=said.reused,
                generated_tokens=said.generated,
                queue_seconds=queue_seconds,
                first_token_seconds=first,
                token_seconds=each,
                seconds=seconds,
            )
        )

    def record_failure(self, status: int) -> None:
        """Count a request that was refused, failed, or whose client left."""
        self._failed.labels(str(status)).inc()

    def record_superseded(self) -> None:
        """Count a request that was answered empty because a newer one has taken its place."""
        self._superseded.inc()

    def record_event(self, kind: str, accepted_characters: int = 0, retained_characters: int = 0) -> None:
        """Count what an editor says of a completion; a kind that is none of `EVENTS` counts as `other`."""
        self._events.labels(kind if kind in EVENTS else "other").inc()
        self._accepted.inc(accepted_characters)
        self._retained.inc(retained_characters)

    def totals(self) -> dict[str, float]:
        """Every number that is not part of a histogram, by name and label."""
        found: dict[str, float] = {}
        for metric in self.registry.collect():
            if metric.type in ("gauge", "counter") and metric.name.startswith("fimble_"):
                for sample in metric.samples:
                    if not sample.name.endswith("_created"):
                        name = sample.name.removeprefix("fimble_").removesuffix("_total")
                        found["/".join((name, *sample.labels.values()))] = sample.value
        return found

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
