"""What is counted, read back as Prometheus reads it."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serve.bundle import Bundle
from serve.metrics import Metrics
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, saying, serving

SECRET = "def launch_codes(): return "


def read(text: str) -> dict[str, float]:
    return {
        "/".join((sample.name.removeprefix("fimble_"), *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(client: httpx.Client) -> dict[str, float]:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return read(reply.text)


def test_completions_are_counted_whole_and_streamed(bundle: Bundle) -> None:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        body = {"prompt": SECRET, "suffix": "\n"}
        usage = client.post("/v1/completions", json=body).json()["usage"]
        client.post("/v1/completions", json=body | {"stream": True})
        found = counted(client)
        assert found["request_success_total/stop"] == 2
        assert found["request_success_total/abort"] == 0
        assert found["prompt_tokens_total"] == found["prefix_cache_queries_total"] == 2 * usage["prompt_tokens"]
        assert found["prefix_cache_hits_total"] == usage["prompt_tokens"] - 1
        assert found["generation_tokens_total"] == 2 * usage["completion_tokens"]
        for name in ("time_to_first_token", "request_time_per_output_token", "request_queue_time"):
            assert found[f"{name}_seconds_count"] == 2
        assert found["num_requests_running"] == found["num_requests_waiting"] == 0
        recent = client.get("/status").json()["recent"]
        assert [served["cached_tokens"] for served in recent] == [0, usage["prompt_tokens"] - 1]
        assert "launch" not in client.get("/metrics").text + client.get("/status").text


def test_refusals_are_counted_by_status_and_the_key_guards_the_numbers(bundle: Bundle) -> None:
    key = {"Authorization": "Bearer s3cret"}
    with serving(completer_for(bundle, saying(bundle, "a"))[0], ServeSettings(api_key="s3cret")) as client:
        assert client.get("/metrics").status_code == client.get("/status").status_code == 401
        assert client.post("/v1/completions", json={}, headers=key).status_code == 422
        text = client.get("/metrics", headers=key).text
        assert read(text)["request_failure_total/401"] == 2
        assert read(text)["request_failure_total/422"] == 1
        assert "s3cret" not in text


def test_events_of_editors_are_counted_under_names_that_cannot_grow() -> None:
    metrics = Metrics(lambda: 1, lambda: 2)
    metrics.record_event("select", accepted_characters=12)
    metrics.record_event("select", retained_characters=9)
    metrics.record_event("anything a client sends")
    found = read(metrics.text().decode())
    assert found["completion_events_total/select"] == 2
    assert found["completion_events_total/other"] == 1
    assert (found["accepted_characters_total"], found["retained_characters_total"]) == (12, 9)
    assert (found["num_requests_running"], found["num_requests_waiting"]) == (1, 2)
    assert "accepted_characters" not in Metrics(int, int).recent
