"""Hugging Face's own Python client against the server, with and without a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve.asking import FIM, REPLY
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.scripted import repeats

hub = pytest.importorskip("huggingface_hub", reason="needs Hugging Face's client")
errors = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(scope="module")
def http(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, saying(bundle, REPLY))[0]) as client:
        yield client


@pytest.fixture(scope="module")
def endless(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))[0]) as client:
        yield client


def client_of(http: httpx.Client, path: str = "/") -> Any:
    return hub.InferenceClient(model=f"{str(http.base_url).rstrip('/')}{path}", token="unused")


@pytest.mark.parametrize("path", ["/", "/models/org/model", "/generate"])
def test_whole(http: httpx.Client, path: str) -> None:
    client = client_of(http, path)
    assert client.text_generation(FIM, max_new_tokens=32, temperature=0.2, top_p=0.9, top_k=40, seed=3) == REPLY
    said = client.text_generation(FIM, details=True, do_sample=False, seed=3, stop=["zzz"])
    assert said.generated_text == REPLY
    assert (said.details.finish_reason, said.details.seed) == ("eos_token", 3)
    assert said.details.generated_tokens > 2
    assert client.text_generation(FIM, return_full_text=True) == FIM + REPLY


@pytest.mark.parametrize("path", ["/", "/models/org/model", "/generate_stream"])
def test_streams(http: httpx.Client, path: str) -> None:
    client = client_of(http, path)
    assert "".join(client.text_generation(FIM, stream=True)) == REPLY
    *pieces, last = client.text_generation(FIM, stream=True, details=True, seed=3)
    assert "".join(piece.token.text for piece in pieces) == last.generated_text == REPLY
    assert [piece.index for piece in (*pieces, last)] == list(range(1, len(pieces) + 2))
    assert all(piece.generated_text is None and piece.details is None for piece in pieces)
    assert (last.details.finish_reason, last.details.seed) == ("eos_token", 3)
    assert last.details.input_length > 10
    assert last.details.generated_tokens > 2


def test_a_stream_without_asking_for_one(http: httpx.Client) -> None:
    reply = http.post("/generate_stream", json={"inputs": FIM, "parameters": {"return_full_text": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert events[-1]["generated_text"] == FIM + REPLY


def test_why_it_ended(http: httpx.Client, endless: httpx.Client) -> None:
    said = client_of(http).text_generation(FIM, details=True, stop=[" + b"])
    assert (said.generated_text, said.details.finish_reason) == ("return a", "stop_sequence")
    said = client_of(endless).text_generation("y", details=True, max_new_tokens=3)
    assert (said.generated_text, said.details.finish_reason) == ("xxx", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("temperature", {"temperature": "hot"}),
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("truncate", {"truncate": 10}),
        ("truncate", {"truncate": "some"}),
        ("best_of", {"best_of": 2}),
        ("grammar", {"grammar": {"type": "regex", "value": "a*"}}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("top_n_tokens", {"top_n_tokens": 5}),
        ("watermark", {"watermark": True}),
    ],
)
def test_the_client_tells_what_is_wrong(http: httpx.Client, name: str, wrong: dict[str, Any], stream: bool) -> None:
    with pytest.raises(errors.ValidationError, match=f"^{name}: "):
        list(client_of(http).text_generation(FIM, stream=stream, **wrong))


def test_a_prompt_is_cut_to_the_context_anyway(http: httpx.Client, bundle: Bundle) -> None:
    assert client_of(http).text_generation(FIM, truncate=bundle.context_size) == REPLY


def test_info(http: httpx.Client, bundle: Bundle) -> None:
    said = http.get("/info").json()
    assert (said["model_id"], said["max_total_tokens"]) == ("tiny", bundle.context_size)
