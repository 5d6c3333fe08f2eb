"""Ollama's own client for JavaScript against the server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve.asking import ANSWER, KEY, MESSAGES, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, serving, until
from tests.serve.programs import ClientError, Program, driving, needs_node
from tests.serve.scripted import repeats
from tests.serve.test_limits import without_room
from tests.serve.test_metrics import counted

pytestmark = needs_node

ASKED = {"model": "any", "prompt": PREFIX, "suffix": SUFFIX}
CHAT = {"model": "any", "messages": MESSAGES}


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[Program]:
    with driving("ollama", str(http.base_url), KEY) as client:
        yield client


def test_whole(client: Program) -> None:
    reply = client.call("generate", ASKED | {"options": {"temperature": 0, "num_predict": 32}})
    assert (reply["response"], reply["done"], reply["done_reason"], reply["model"]) == (REPLY, True, "stop", "any")
    assert reply["eval_count"] > 2


def test_streams(client: Program) -> None:
    pieces = client.call("stream", ASKED)
    assert "".join(piece["response"] for piece in pieces) == REPLY
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_chat(talking: httpx.Client) -> None:
    with driving("ollama", str(talking.base_url)) as client:
        message = client.call("chat", CHAT)["message"]
        assert (message["role"], message["content"]) == ("assistant", ANSWER)
        pieces = client.call("streamChat", CHAT)
        assert "".join(piece["message"]["content"] for piece in pieces) == ANSWER
        with pytest.raises(ClientError, match="tools: the model calls no tools"):
            client.call("chat", CHAT | {"tools": [{"type": "function", "function": {"name": "run"}}]})


def test_a_stream_that_the_client_leaves_is_not_computed_further(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.02
    with serving(completer) as http, driving("ollama", str(http.base_url)) as client:
        assert not client.call("leave", {"model": "any", "prompt": "a", "options": {"num_predict": 200}})["done"]
        until(lambda: counted(http)["num_requests_running"] == 0)
        assert len(runner.calls) < 150


def test_what_is_there(client: Program) -> None:
    assert [model["name"] for model in client.call("list")["models"]] == ["tiny"]
    assert [model["model"] for model in client.call("ps")["models"]] == ["tiny"]
    assert "insert" in client.call("show", {"model": "any"})["capabilities"]
    assert client.call("version")["version"]


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_the_client_tells_what_is_wrong(client: Program, call: str) -> None:
    with pytest.raises(ClientError, match=r"^temperature: a number is needed") as caught:
        client.call(call, ASKED | {"options": {"temperature": "hot"}})
    assert (caught.value.name, caught.value.fields["status_code"]) == ("ResponseError", 422)
    with pytest.raises(ClientError, match=r"^format: "):
        client.call(call, ASKED | {"format": "json"})


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_the_key(http: httpx.Client, call: str) -> None:
    with (
        driving("ollama", str(http.base_url), "wrong") as client,
        pytest.raises(ClientError, match="a valid API key is needed") as caught,
    ):
        client.call(call, ASKED)
    assert caught.value.fields["status_code"] == 401


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_no_room(bundle: Bundle, call: str) -> None:
    with (
        without_room(bundle) as http,
        driving("ollama", str(http.base_url)) as client,
        pytest.raises(ClientError, match="the server is busy") as caught,
    ):
        client.call(call, ASKED)
    assert caught.value.fields["status_code"] == 503


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_a_model_that_fails(failing: httpx.Client, call: str) -> None:
    with (
        driving("ollama", str(failing.base_url)) as client,
        pytest.raises(ClientError, match="the server failed"),
    ):
        client.call(call, ASKED)
