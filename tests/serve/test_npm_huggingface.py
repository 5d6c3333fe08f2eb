"""Hugging Face's own client for JavaScript, which asks its endpoints in OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve.asking import ANSWER, FIM, KEY, MESSAGES, REPLY
from tests.serve.programs import ClientError, Program, driving, needs_node
from tests.serve.test_limits import without_room

pytestmark = needs_node

ASKED: dict[str, Any] = {"inputs": FIM, "parameters": {"max_new_tokens": 32, "temperature": 0.2, "top_p": 0.95}}
CHAT = {"messages": MESSAGES, "max_tokens": 32}


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[Program]:
    with driving("huggingface", str(http.base_url), KEY) as client:
        yield client


def test_whole(client: Program) -> None:
    assert client.call("generate", ASKED) == {"generated_text": REPLY}


def test_streams(client: Program) -> None:
    events = client.call("stream", ASKED)
    assert "".join(event["choices"][0]["text"] for event in events) == REPLY


def test_chat(talking: httpx.Client) -> None:
    with driving("huggingface", str(talking.base_url), "unused") as client:
        assert client.call("chat", CHAT)["choices"][0]["message"]["content"] == ANSWER
        events = client.call("streamChat", CHAT)
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == ANSWER


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_the_client_tells_what_is_wrong(client: Program, call: str) -> None:
    with pytest.raises(ClientError, match="temperature: a number is needed") as caught:
        client.call(call, {"inputs": FIM, "parameters": {"temperature": "hot"}})
    assert caught.value.fields["httpResponse"]["status"] == 422


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_the_key(http: httpx.Client, call: str) -> None:
    with (
        driving("huggingface", str(http.base_url), "wrong") as client,
        pytest.raises(ClientError, match="a valid API key is needed") as caught,
    ):
        client.call(call, ASKED)
    assert caught.value.fields["httpResponse"]["status"] == 401


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_no_room(bundle: Bundle, call: str) -> None:
    with (
        without_room(bundle) as http,
        driving("huggingface", str(http.base_url), "unused") as client,
        pytest.raises(ClientError, match="the server is busy") as caught,
    ):
        client.call(call, ASKED)
    assert caught.value.fields["httpResponse"]["status"] == 503


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_a_model_that_fails(failing: httpx.Client, call: str) -> None:
    with (
        driving("huggingface", str(failing.base_url), "unused") as client,
        pytest.raises(ClientError, match="the server failed"),
    ):
        client.call(call, ASKED)
