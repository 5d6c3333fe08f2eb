"""OpenAI's own Python client against the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from serve.bundle import Bundle, open_bundle
from tests.serve.asking import ANSWER, FIM, KEY, MESSAGES, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, saying, serving, write_bundle
from tests.serve.scripted import ScriptedRunner, fails, repeats

openai = pytest.importorskip("openai", reason="needs OpenAI's client")


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
        client.embeddings.create(model="any", input="hello")


def test_a_model_that_fails_within_a_stream(bundle: Bundle) -> None:
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


@pytest.fixture(scope="module")
def chatting(chat_bundle: Bundle) -> Iterator[tuple[Any, ScriptedRunner]]:
    completer, runner = completer_for(chat_bundle, saying(chat_bundle, ANSWER))
    with serving(completer) as http:
        yield client_of(http), runner


def prompt_of(bundle: Bundle, *turns: tuple[str, str]) -> list[int]:
    """ChatML's ids, put together by hand."""
    begin, end = (bundle.tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>"))

    def encode(text: str) -> list[int]:
        return list(bundle.tokenizer.encode(text).ids)

    ids = []
    for number, (role, content) in enumerate(turns):
        ids += [*(encode("\n") if number else []), begin, *encode(f"{role}\n{content}"), end]
    return [*ids, *encode("\n"), begin, *encode("assistant\n")]


def test_chat(chatting: tuple[Any, ScriptedRunner], chat_bundle: Bundle) -> None:
    client, runner = chatting
    done = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=32, temperature=0)
    assert (done.object, done.model) == ("chat.completion", "gpt-4o")
    (choice,) = done.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    prompt = prompt_of(chat_bundle, ("user", "How do I sort a list?"))
    assert runner.held[: len(prompt)] == prompt
    assert (done.usage.prompt_tokens, done.usage.total_tokens) == (
        len(prompt),
        len(prompt) + done.usage.completion_tokens,
    )


@pytest.mark.parametrize("counted", [False, True])
def test_chat_streams(chatting: tuple[Any, ScriptedRunner], counted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if counted else {}
    events = list(chatting[0].chat.completions.create(model="any", messages=MESSAGES, stream=True, **options))
    usage = events.pop().usage if counted else None
    assert (usage is not None and usage.completion_tokens > 2) == counted
    assert {(event.id, event.object, event.usage) for event in events} == {
        (events[0].id, "chat.completion.chunk", None)
    }
    deltas = [event.choices[0].delta for event in events]
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert [event.choices[0].finish_reason for event in events] == [None] * (len(events) - 1) + ["stop"]


def test_roles_and_parts_of_messages(chatting: tuple[Any, ScriptedRunner], chat_bundle: Bundle) -> None:
    client, runner = chatting
    parts = [{"type": "text", "text": "one <|im_end|>"}, {"type": "text", "text": "two <fim_middle>"}]
    client.chat.completions.create(
        model="any",
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": parts},
        ],
        stop=["sorted"],
    )
    prompt = prompt_of(
        chat_bundle,
        ("system", "Be short."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "one <|im_end|>\ntwo <fim_middle>"),
    )
    assert runner.held[: len(prompt)] == prompt


def test_chat_ends_where_it_is_told_to(chat_bundle: Bundle) -> None:
    token = chat_bundle.tokenizer.encode("x").ids[0]
    with serving(completer_for(chat_bundle, repeats(token))[0]) as http:
        ask = client_of(http).chat.completions.create
        for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}):
            done = ask(model="any", messages=MESSAGES, **limit).choices[0]
            assert (done.message.content, done.finish_reason) == ("xxx", "length")
        done = ask(model="any", messages=MESSAGES, stop="xx", max_tokens=9).choices[0]
        assert (done.message.content, done.finish_reason) == ("", "stop")
        # Unless told, it goes on as long as the context has room.
        usage = ask(model="any", messages=MESSAGES).usage
        assert usage.total_tokens == chat_bundle.context_size


TOOL = {"type": "function", "function": {"name": "run", "parameters": {}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("tools", {"tools": [TOOL]}),
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("max_completion_tokens", {"max_completion_tokens": 0}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hello"}),
        ("messages", {"messages": [{"role": "user", "content": "long " * 2000}]}),
        ("messages[0]", {"messages": ["hello"]}),
        ("messages[0].role", {"messages": [{"role": "pirate", "content": "a"}]}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ("messages[1].tool_calls", {"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}),
    ],
)
def test_the_client_tells_what_chat_cannot_do(
    chatting: tuple[Any, ScriptedRunner], name: str, wrong: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=r"leave it out|needed|fit|tools|only text") as caught:
        chatting[0].chat.completions.create(**({"model": "any", "messages": MESSAGES, "stream": stream} | wrong))
    assert (caught.value.param, caught.value.type, caught.value.code) == (name, "invalid_request_error", "validation")


def test_what_asks_for_no_more_than_text_is_taken(chatting: tuple[Any, ScriptedRunner]) -> None:
    asked = {"tools": [], "response_format": {"type": "text"}, "modalities": ["text"], "frequency_penalty": 0, "n": 1}
    done = chatting[0].chat.completions.create(model="any", messages=MESSAGES, **asked)
    assert done.choices[0].message.content == ANSWER


def test_a_model_without_a_template_does_not_chat(client: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="tiny brings no chat template") as caught:
        client.chat.completions.create(model="any", messages=MESSAGES)
    assert (caught.value.param, caught.value.type) == ("model", "invalid_request_error")


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [
        ("{{ raise_exception('no roles') }}", openai.UnprocessableEntityError, "refuses them: no roles"),
        ("{{ ''.__class__.mro() }}", openai.InternalServerError, "cannot be rendered .SecurityError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_template_that_fails_is_told_before_a_stream(
    trained: Tokenizer, tmp_path: Path, template: str, kind: type[Exception], said: str, stream: bool
) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "bad", trained, files={"chat_template.jinja": template}))
    completer = completer_for(bundle, saying(bundle, ANSWER))[0]
    with serving(completer) as http, pytest.raises(kind, match=said):
        client_of(http).chat.completions.create(model="any", messages=MESSAGES, stream=stream)
