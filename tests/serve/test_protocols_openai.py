"""OpenAI's own Python client against the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, saying, serving

openai = pytest.importorskip("openai", reason="needs OpenAI's client")

REPLY = "return a + b"
PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
FIM = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"
KEY = "secret"


@pytest.fixture(scope="module")
def http(bundle: Bundle) -> Iterator[httpx.Client]:
    completer = completer_for(bundle, saying(bundle, REPLY))[0]
    with serving(completer, ServeSettings(api_key=KEY)) as client:
        yield client


def client_of(http: httpx.Client, key: str = KEY) -> Any:
    return openai.OpenAI(base_url=f"{http.base_url}/v1".replace("//v1", "/v1"), api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Any:
    return client_of(http)


@pytest.mark.parametrize("asked", [{"prompt": PREFIX, "suffix": SUFFIX}, {"prompt": FIM}])
def test_whole(client: Any, asked: dict[str, str]) -> None:
    done = client.completions.create(model="gpt-3.5-turbo-instruct", max_tokens=32, temperature=0, seed=1, **asked)
    assert (done.choices[0].text, done.choices[0].finish_reason) == (REPLY, "stop")
    assert done.model == "gpt-3.5-turbo-instruct"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.completion_tokens > 2


@pytest.mark.parametrize("counted", [False, True])
def test_streams(client: Any, counted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if counted else {}
    events = list(client.completions.create(model="any", prompt=PREFIX, suffix=SUFFIX, stream=True, **options))
    usage = events.pop().usage if counted else None
    assert "".join(event.choices[0].text for event in events) == REPLY
    assert [event.choices[0].finish_reason for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert all(event.usage is None for event in events)
    assert (usage is not None and usage.completion_tokens > 2) == counted


def test_models(client: Any) -> None:
    assert [(model.id, model.object, model.owned_by) for model in client.models.list()] == [("tiny", "model", "fimble")]
    assert client.models.retrieve("org/whatever").id == "tiny"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("temperature", {"temperature": "hot"}),
        ("n", {"n": 2}),
        ("echo", {"echo": True}),
        ("logprobs", {"logprobs": 3}),
        ("logit_bias", {"logit_bias": {"50256": -100}}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("stream_options", {"stream_options": "usage"}),
        ("include_usage", {"stream_options": {"include_usage": 1}}),
    ],
)
def test_the_client_tells_what_is_wrong(client: Any, name: str, wrong: dict[str, Any], stream: bool) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=f"{name}: ") as caught:
        client.completions.create(model="any", prompt=PREFIX, stream=stream, **wrong)
    assert (caught.value.param, caught.value.type, caught.value.code) == (name, "invalid_request_error", "validation")


def test_other_refusals_are_the_clients_too(http: httpx.Client, client: Any) -> None:
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client_of(http, "wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "hello"}])


def test_a_model_that_fails_within_a_stream(bundle: Bundle) -> None:
    def fails(held: object, vocab_size: int) -> Any:
        raise RuntimeError("at /home/user/secret.py")

    with serving(completer_for(bundle, fails)[0]) as http:
        with pytest.raises(openai.APIError, match="the server failed"):
            list(client_of(http).completions.create(model="any", prompt="a", stream=True))
        with pytest.raises(openai.InternalServerError):
            client_of(http).completions.create(model="any", prompt="a")


def test_a_prompt_of_token_ids_is_continued_as_it_is(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, saying(bundle, "a + b"))
    ids = [bundle.ids.prefix, *bundle.tokenizer.encode("x = ").ids, bundle.ids.suffix, bundle.ids.middle]
    with serving(completer) as client:
        reply = client.post("/v1/completions", json={"prompt": ids, "max_tokens": 20}).json()
        assert runner.held[: len(ids)] == ids
        listed = client.post("/v1/completions", json={"prompt": [ids], "max_tokens": 20}).json()
        assert listed["choices"] == reply["choices"]
        for bad in ([1.5], [True], [-1], [10**6], [1, "a"], ids * 100, []):
            refused = client.post("/v1/completions", json={"prompt": bad})
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, "prompt")
    assert reply["choices"][0]["text"] == "a + b"
    assert reply["usage"]["prompt_tokens"] == len(ids)
