"""TGI's own Python client against the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve.asking import ANSWER, FIM, KEY, REPLY
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.programs import ClientError, Program, driving_tgi, needs_tgi
from tests.serve.scripted import repeats
from tests.serve.test_limits import without_room

pytestmark = needs_tgi

WHOLE, STREAMED = ["generate", "generate_async"], ["stream", "stream_async"]


def url(http: httpx.Client) -> str:
    return str(http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[Program]:
    with driving_tgi(url(http), KEY) as client:
        yield client


@pytest.mark.parametrize("call", WHOLE)
def test_whole(client: Program, call: str) -> None:
    said = client.call(
        call, FIM, {"max_new_tokens": 32, "do_sample": True, "temperature": 0.2, "top_p": 0.9, "seed": 3}
    )
    assert said["generated_text"] == REPLY
    assert (said["details"]["finish_reason"], said["details"]["seed"]) == ("eos_token", 3)
    assert said["details"]["generated_tokens"] > 2
    assert client.call(call, FIM, {"return_full_text": True})["generated_text"] == FIM + REPLY
    said = client.call(call, FIM, {"stop_sequences": [" + b"]})
    assert (said["generated_text"], said["details"]["finish_reason"]) == ("return a", "stop_sequence")


@pytest.mark.parametrize("call", STREAMED)
def test_streams(client: Program, call: str) -> None:
    *pieces, last = client.call(call, FIM, {"max_new_tokens": 32})
    assert "".join(piece["token"]["text"] for piece in pieces) == last["generated_text"] == REPLY
    assert all(not piece["token"]["special"] and piece["details"] is None for piece in pieces)
    assert last["details"]["finish_reason"] == "eos_token"


def test_its_own_limit_of_twenty_tokens(bundle: Bundle) -> None:
    completer = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))[0]
    with serving(completer) as http, driving_tgi(url(http), "") as client:
        said = client.call("generate", "y", {})
    assert (said["generated_text"], said["details"]["finish_reason"]) == ("x" * 20, "length")


def test_chat(chat_bundle: Bundle) -> None:
    completer = completer_for(chat_bundle, saying(chat_bundle, ANSWER))[0]
    with serving(completer) as http, driving_tgi(url(http), "") as client:
        assert client.call("chat", "How do I sort a list?")["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("call", WHOLE + STREAMED)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("truncate", {"truncate": 10}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("watermark", {"watermark": True}),
        ("grammar", {"grammar": {"type": "regex", "value": "a*"}}),
    ],
)
def test_the_client_tells_what_is_wrong(client: Program, call: str, name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=f"{name}: ") as caught:
        client.call(call, FIM, wrong)
    assert caught.value.name == "ValidationError"


def test_the_key(http: httpx.Client) -> None:
    with driving_tgi(url(http), "wrong") as client:
        for call in WHOLE + STREAMED:
            with pytest.raises(ClientError, match="a valid API key is needed"):
                client.call(call, FIM, {})


def test_no_room(bundle: Bundle) -> None:
    with without_room(bundle) as http, driving_tgi(url(http), "") as client:
        for call in WHOLE + STREAMED:
            with pytest.raises(ClientError, match="the server is busy") as caught:
                client.call(call, FIM, {})
            assert caught.value.name == "OverloadedError"


def test_a_model_that_fails(failing: httpx.Client) -> None:
    with driving_tgi(url(failing), "") as client:
        for call in WHOLE + STREAMED:
            with pytest.raises(ClientError, match="the server failed"):
                client.call(call, FIM, {})
