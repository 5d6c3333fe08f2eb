"""OpenAI's own client for JavaScript against the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.settings import ServeSettings
from tests.serve.asking import ANSWER, FIM, KEY, MESSAGES, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.programs import ClientError, Program, driving, needs_node
from tests.serve.test_limits import without_room

pytestmark = needs_node


def url(http: httpx.Client) -> str:
    return str(http.base_url.join("/v1"))


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[Program]:
    with driving("openai", url(http), KEY) as client:
        yield client


@pytest.fixture(scope="module")
def chatting(talking: httpx.Client) -> Iterator[Program]:
    with driving("openai", url(talking), "unused") as client:
        yield client


@pytest.mark.parametrize("asked", [{"prompt": PREFIX, "suffix": SUFFIX}, {"prompt": FIM}])
def test_whole(client: Program, asked: dict[str, str]) -> None:
    done = client.call("complete", {"model": "any", "max_tokens": 32, "temperature": 0, "seed": 1, **asked})
    assert (done["choices"][0]["text"], done["choices"][0]["finish_reason"]) == (REPLY, "stop")
    assert done["usage"]["total_tokens"] == done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"] > 10


@pytest.mark.parametrize("counted", [False, True])
def test_streams(client: Program, counted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if counted else {}
    events = client.call("stream", {"model": "any", "prompt": PREFIX, "suffix": SUFFIX, **options})
    assert not counted or events.pop()["usage"]["completion_tokens"] > 2
    assert "".join(event["choices"][0]["text"] for event in events) == REPLY
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]


def test_chat(chatting: Program) -> None:
    done = chatting.call("chat", {"model": "any", "messages": MESSAGES})
    assert done["choices"][0]["message"]["content"] == ANSWER
    *events, last = chatting.call("streamChat", {"model": "any", "messages": MESSAGES})
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == ANSWER
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")


def test_the_clients_own_helper_puts_a_streamed_chat_together(chatting: Program) -> None:
    done = chatting.call(
        "helpedChat", {"model": "any", "messages": MESSAGES, "stream_options": {"include_usage": True}}
    )
    message = done["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", ANSWER)
    assert done["usage"]["completion_tokens"] > 2


def test_models(client: Program) -> None:
    assert [model["id"] for model in client.call("models")] == ["tiny"]
    assert client.call("model", "org/whatever")["id"] == "tiny"


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"temperature": "hot"}),
    ("n", {"n": 2}),
    ("logprobs", {"logprobs": 3}),
    ("stream_options", {"stream_options": "usage"}),
]


@pytest.mark.parametrize("call", ["complete", "stream"])
@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_the_client_tells_what_is_wrong(client: Program, call: str, name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=f"422 {name}: ") as caught:
        client.call(call, {"model": "any", "prompt": PREFIX, **wrong})
    assert caught.value.name == "UnprocessableEntityError"
    assert (caught.value.fields["param"], caught.value.fields["code"]) == (name, "validation")


@pytest.mark.parametrize("call", ["complete", "stream"])
def test_the_key(http: httpx.Client, call: str) -> None:
    with driving("openai", url(http), "wrong") as client, pytest.raises(ClientError, match="API key") as caught:
        client.call(call, {"model": "any", "prompt": PREFIX})
    assert (caught.value.name, caught.value.fields["status"]) == ("AuthenticationError", 401)


@pytest.mark.parametrize("call", ["complete", "stream"])
def test_no_room(bundle: Bundle, call: str) -> None:
    with (
        without_room(bundle) as http,
        driving("openai", url(http), "unused") as client,
        pytest.raises(ClientError, match="the server is busy") as caught,
    ):
        client.call(call, {"model": "any", "prompt": PREFIX})
    assert (caught.value.name, caught.value.fields["status"]) == ("InternalServerError", 503)


def test_more_at_once_than_one_clients_share(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, saying(bundle, REPLY))
    runner.seconds_a_call = 0.1
    with serving(completer, ServeSettings(queue_limit=2)) as http, driving("openai", url(http), "unused") as client:
        ended = client.call("burst", {"model": "any", "prompt": PREFIX}, 3)
    assert sorted(ended) == ["RateLimitError", "done", "done"]


def test_a_model_that_fails(failing: httpx.Client) -> None:
    with driving("openai", url(failing), "unused") as client:
        for call in ("complete", "stream"):
            with pytest.raises(ClientError, match="the server failed"):
                client.call(call, {"model": "any", "prompt": "a"})
