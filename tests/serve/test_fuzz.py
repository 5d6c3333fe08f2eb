"""Whatever JSON arrives, the answer is a completion or an error that every editor can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.bundle import Bundle
from tests.serve import llm_ls
from tests.serve.conftest import completer_for, saying, serving

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 1e308, float("nan"), float("inf"), -0.0]),
    st.floats(),
    st.text(st.characters(categories=None), max_size=8),
    st.sampled_from(["<fim_prefix>a<fim_suffix>b<fim_middle>", "<fim_middle>", "\ud800", "def f("]),
)
anything = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner))
)
NUMBERS = ["temperature", "top_p", "top_k", "seed", "repetition_penalty", "max_new_tokens", "max_tokens"]
OTHERS = ["do_sample", "stop", "parameters", "stream", "n", "suffix", "model", "details", "return_full_text"]
LLAMA = ["n_predict", "input_extra", "response_fields", "n_indent", "t_max_predict_ms", "repeat_penalty", "n_probs"]
OLLAMA = ["options", "raw", "num_predict", "format", "template", "keep_alive"]
TGI = ["truncate", "best_of", "grammar", "watermark", "decoder_input_details"]
OPENAI = ["stream_options", "logit_bias", "logprobs", "echo"]
TABBY = ["language", "mode", "type", "completion_id", "choice_index"]
names = st.sampled_from([*NUMBERS, *TABBY, *OPENAI, *TGI, *OTHERS, *LLAMA, *OLLAMA])
files = st.lists(st.fixed_dictionaries({}, optional={"text": scalars, "filename": scalars}), max_size=3)
options = st.dictionaries(names, st.one_of(anything, files), max_size=4)
text = st.one_of(scalars, st.text(st.characters(categories=None), max_size=40))
bodies = st.one_of(
    anything,
    st.builds(
        lambda inputs, parameters: {"inputs": inputs, "parameters": parameters}, text, st.one_of(anything, options)
    ),
    st.builds(lambda prompt, others: {"prompt": prompt, **others}, text, options),
    st.builds(
        lambda before, segments, others: {"segments": {"prefix": before, **segments}, **others},
        text,
        st.dictionaries(
            st.sampled_from(["suffix", "filepath", "declarations", "clipboard"]), st.one_of(anything, files), max_size=3
        ),
        options,
    ),
    st.fixed_dictionaries(
        {
            "type": st.one_of(scalars, st.sampled_from(["view", "select"])),
            "completion_id": text,
            "choice_index": scalars,
        }
    ),
    st.builds(
        lambda before, after, others: {"input_prefix": before, "input_suffix": after, **others}, text, text, options
    ),
)
messages = st.lists(
    st.one_of(
        anything,
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
            optional={"content": st.one_of(text, st.lists(anything, max_size=2)), "tool_calls": anything},
        ),
    ),
    max_size=4,
)
chats = st.builds(lambda messages, others: {"messages": messages, **others}, messages, options)
BACKENDS = {
    "/": "huggingface",
    "/generate": "tgi",
    "/generate_stream": "tgi",
    "/v1/completions": "openai",
    "/infill": "llamacpp 0.5.3",
    "/completion": "llamacpp 0.5.3",
    "/api/generate": "ollama",
}


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, saying(bundle, "ok"))[0]) as client:
        yield client


@pytest.fixture(scope="module")
def chatting(chat_bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(chat_bundle, saying(chat_bundle, "ok"))[0]) as client:
        yield client


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["/v1/chat/completions", "/api/chat"]), body=st.one_of(bodies, chats))
def test_no_chat_makes_the_server_fail(chatting: httpx.Client, path: str, body: Any) -> None:
    reply = chatting.post(path, content=json.dumps(body).encode())
    assert reply.status_code in (200, 422), reply.text
    if reply.headers["content-type"].startswith("application/json"):
        assert reply.json()["error" if reply.status_code == 422 else "model"]
        return
    *_, last = filter(None, reply.text.split("\n"))
    event = last.removeprefix("data: ")
    assert event == "[DONE]" if path.startswith("/v1/") else json.loads(event)["done"]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(sorted(BACKENDS)), body=bodies)
def test_no_body_makes_the_server_fail(client: httpx.Client, path: str, body: Any) -> None:
    reply = client.post(path, content=json.dumps(body).encode(), headers=llm_ls.HEADERS)
    assert reply.status_code in (200, 422), reply.text
    if not reply.headers["content-type"].startswith("application/json"):
        *_, last = filter(None, reply.text.split("\n"))
        event = last.removeprefix("data: ")
        assert event == "[DONE]" if path.startswith("/v1/") else "error" not in json.loads(event)
        return
    if reply.status_code == 200 and isinstance(body, dict) and body.get("response_fields"):
        return
    completions, message = llm_ls.read(BACKENDS[path], reply.text)
    assert completions or message


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(sorted(BACKENDS)), content=st.binary(max_size=60))
def test_no_bytes_make_the_server_fail(client: httpx.Client, path: str, content: bytes) -> None:
    reply = client.post(path, content=content, headers=llm_ls.HEADERS)
    assert reply.status_code == 422
    assert llm_ls.read(BACKENDS[path], reply.text)[1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["/api/chat", "/api/show", "/v1/events"]), body=bodies)
def test_no_body_makes_what_only_tells_or_counts_fail(client: httpx.Client, path: str, body: Any) -> None:
    reply = client.post(path, content=json.dumps(body).encode())
    assert reply.status_code in (200, 422), reply.text
    assert isinstance(reply.json(), dict)
    assert reply.status_code == 200 or reply.json()["error"]
