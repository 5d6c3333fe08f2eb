"""Ollama's own Python client against the server, and what it does not send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve.asking import ANSWER, FIM, MESSAGES, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.scripted import ScriptedRunner, repeats

ollama = pytest.importorskip("ollama", reason="needs Ollama's client")


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[tuple[httpx.Client, ScriptedRunner]]:
    completer, runner = completer_for(bundle, saying(bundle, REPLY + "\n"))  # the line end is there already
    with serving(completer) as client:
        yield client, runner


@pytest.fixture
def http(served: tuple[httpx.Client, ScriptedRunner]) -> httpx.Client:
    return served[0]


@pytest.fixture
def client(http: httpx.Client) -> Any:
    return ollama.Client(host=str(http.base_url))


def test_generate(client: Any) -> None:
    reply = client.generate("any", PREFIX, SUFFIX, options={"temperature": 0, "num_predict": 32, "seed": 1})
    assert (reply.response, reply.done, reply.done_reason, reply.model) == (REPLY, True, "stop", "any")
    assert reply.prompt_eval_count > 10
    assert reply.eval_count > 2
    assert reply.total_duration >= reply.prompt_eval_duration


def test_it_streams_unless_told_otherwise(client: Any, http: httpx.Client) -> None:
    pieces = list(client.generate("any", FIM, raw=True, stream=True))
    assert "".join(piece.response for piece in pieces) == REPLY
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count > 2
    reply = http.post("/api/generate", json={"model": "any", "prompt": PREFIX, "suffix": SUFFIX})
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["done"] for line in reply.text.splitlines()].count(True) == 1


def test_prefix_and_suffix_reach_the_model(
    client: Any, served: tuple[httpx.Client, ScriptedRunner], bundle: Bundle
) -> None:
    before, after = (bundle.tokenizer.encode(text).ids for text in (PREFIX, SUFFIX))
    prompt = [bundle.ids.prefix, bundle.ids.suffix, *after, bundle.ids.middle, *before]
    for asked in ({"prompt": PREFIX, "suffix": SUFFIX}, {"prompt": FIM, "raw": True}):
        client.generate("any", **asked)
        assert served[1].held[: len(prompt)] == prompt


def test_stop_and_length(client: Any, bundle: Bundle) -> None:
    assert client.generate("any", PREFIX, SUFFIX, options={"stop": [" + b"]}).response == "return a"
    token = bundle.tokenizer.encode("x").ids[0]
    with serving(completer_for(bundle, repeats(token))[0]) as http:
        reply = ollama.Client(host=str(http.base_url)).generate("any", "y", options={"num_predict": 3})
        assert (reply.response, reply.done_reason, reply.eval_count) == ("xxx", "length", 3)


def test_without_text_the_model_is_loaded(client: Any, served: tuple[httpx.Client, ScriptedRunner]) -> None:
    calls = len(served[1].calls)
    assert client.generate("any").done_reason == "load"
    assert [piece.done_reason for piece in client.generate("any", stream=True)] == ["load"]
    assert len(served[1].calls) == calls


def test_what_is_there(client: Any, http: httpx.Client, bundle: Bundle) -> None:
    (model,) = client.list().models
    assert (model.model, model.details.quantization_level) == ("tiny", "q4f16_1")
    assert model.modified_at is not None
    assert [model.model for model in client.ps().models] == ["tiny"]
    shown = client.show("any")
    assert ".Suffix" in shown.template
    assert "insert" in shown.capabilities
    assert http.get("/api/version").json()["version"]
    alive = http.head("/")
    assert (alive.status_code, alive.content) == (200, b"")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("temperature", {"options": {"temperature": "hot"}}),
        ("num_predict", {"options": {"num_predict": -3}}),
        ("options", {"options": [1]}),
        ("prompt", {"prompt": 5}),
        ("suffix", {"suffix": 5}),
        ("raw", {"raw": "yes"}),
        ("model", {"model": 5}),
        ("system", {"system": "You are a pirate."}),
        ("format", {"format": "json"}),
        ("mirostat", {"options": {"mirostat": 1}}),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    http: httpx.Client, name: str, wrong: dict[str, Any], stream: bool
) -> None:
    reply = http.post("/api/generate", json={"prompt": PREFIX, "stream": stream, **wrong})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith(f"{name}: ")


def test_the_client_tells_what_is_wrong(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="temperature: a number is needed") as caught:
        client.generate("any", PREFIX, options={"temperature": "hot"})
    assert caught.value.status_code == 422
    with pytest.raises(ollama.ResponseError, match="system: "):
        list(client.generate("any", PREFIX, system="a pirate", stream=True))
    with pytest.raises(ollama.ResponseError, match="model: tiny brings no chat template"):
        client.chat("any", [{"role": "user", "content": "hello"}])


@pytest.fixture(scope="module")
def chatting(chat_bundle: Bundle) -> Iterator[tuple[Any, ScriptedRunner]]:
    completer, runner = completer_for(chat_bundle, saying(chat_bundle, ANSWER))
    with serving(completer) as http:
        yield ollama.Client(host=str(http.base_url)), runner


def test_chat(chatting: tuple[Any, ScriptedRunner], chat_bundle: Bundle) -> None:
    client, runner = chatting
    reply = client.chat("any", MESSAGES, options={"num_predict": 32, "temperature": 0})
    assert (reply.message.role, reply.message.content, reply.done_reason, reply.model) == (
        "assistant",
        ANSWER,
        "stop",
        "any",
    )
    assert reply.eval_count > 2
    assert reply.total_duration >= reply.prompt_eval_duration > 0
    text = chat_bundle.tokenizer.decode(runner.held[: reply.prompt_eval_count], skip_special_tokens=False)
    assert text == "<|im_start|>user\nHow do I sort a list?<|im_end|>\n<|im_start|>assistant\n"


def test_chat_streams_unless_told_otherwise(chatting: tuple[Any, ScriptedRunner]) -> None:
    pieces = list(chatting[0].chat("any", MESSAGES, stream=True))
    assert "".join(piece.message.content for piece in pieces) == ANSWER
    assert {piece.message.role for piece in pieces} == {"assistant"}
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count > 2
    assert chatting[0].chat("any", []).done_reason == "load"


def test_a_system_text_makes_a_chat_of_a_prompt(chatting: tuple[Any, ScriptedRunner], chat_bundle: Bundle) -> None:
    client, runner = chatting
    reply = client.generate("any", "Sort a list.", system="Be short.")
    assert reply.response == ANSWER
    text = chat_bundle.tokenizer.decode(runner.held[: reply.prompt_eval_count], skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nSort a list.<|im_end|>\n<|im_start|>assistant\n"
    )
    client.generate("any", "Sort a list.")
    assert chat_bundle.tokenizer.decode(runner.held).startswith("Sort a list.")
    for completed in ({"suffix": "b"}, {"raw": True}):
        with pytest.raises(ollama.ResponseError, match="system: it is for a model that chats"):
            client.generate("any", "a", system="Be short.", **completed)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("tools: the model calls no tools", {"tools": [{"type": "function", "function": {"name": "run"}}]}),
        ("format: ", {"format": "json"}),
        ("num_predict: ", {"options": {"num_predict": -3}}),
        (r"messages\[0\].images: only text", {"messages": [{"role": "user", "content": "a", "images": [b"png"]}]}),
        (r"messages\[0\].role: the model calls no", {"messages": [{"role": "tool", "content": "a"}]}),
        ("messages: the last turn alone", {"messages": [{"role": "user", "content": "long " * 2000}]}),
    ],
)
def test_the_client_tells_what_chat_cannot_do(
    chatting: tuple[Any, ScriptedRunner], said: str, wrong: dict[str, Any]
) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            list(chatting[0].chat(**({"model": "any", "messages": MESSAGES, "stream": stream} | wrong)))
        assert caught.value.status_code == 422


def test_show_tells_who_chats(chatting: tuple[Any, ScriptedRunner], client: Any) -> None:
    assert chatting[0].show("any").capabilities == ["completion", "insert", "chat"]
    assert client.show("any").capabilities == ["completion", "insert"]
