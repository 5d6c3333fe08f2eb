"""The bodies that editors send, over a real connection, and the answers they can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from tests.serve import llm_ls
from tests.serve.asking import FIM, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.scripted import ScriptedRunner, repeats

# What llm-vscode 0.0.38 sends.
OLD_PARAMETERS = {
    "max_new_tokens": 60,
    "temperature": 0.2,
    "do_sample": True,
    "top_p": 0.95,
    "stop": ["<|endoftext|>"],
}
# What llm-vscode 0.2 has in `llm.requestBody`.
BACKENDS = ["huggingface", "tgi", "openai", "llamacpp", "llamacpp 0.5.3", "ollama"]
NEW_REQUEST_BODY = {"parameters": {"max_new_tokens": 60, "temperature": 0.2, "top_p": 0.95}}


@pytest.fixture(scope="module")
def endless(bundle: Bundle) -> Iterator[httpx.Client]:
    """A model that never ends by itself."""
    token = bundle.tokenizer.encode("x").ids[0]
    with serving(completer_for(bundle, repeats(token))[0]) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/models/bigcode/starcoder", "/models/tiny"])
def test_llm_vscode_before_llm_ls(served: tuple[httpx.Client, ScriptedRunner], bundle: Bundle, path: str) -> None:
    client, runner = served
    # Without a token this client sends an empty header.
    headers = {"Authorization": "", "Content-Type": "application/json"}
    reply = client.post(path, json={"inputs": FIM, "parameters": OLD_PARAMETERS}, headers=headers)
    assert reply.status_code == 200
    assert reply.json() == [{"generated_text": REPLY}]
    # The model saw the suffix first.
    before, after = (bundle.tokenizer.encode(text).ids for text in (PREFIX, SUFFIX))
    prompt = [bundle.ids.prefix, bundle.ids.suffix, *after, bundle.ids.middle, *before]
    assert runner.held[: len(prompt)] == prompt


def test_a_blank_suffix_is_sent_without_fim_tokens(served: tuple[httpx.Client, ScriptedRunner], bundle: Bundle) -> None:
    client, runner = served
    reply = client.post("/", json={"inputs": PREFIX, "parameters": OLD_PARAMETERS})
    assert reply.json() == [{"generated_text": REPLY}]
    prompt = bundle.tokenizer.encode(PREFIX).ids
    assert runner.held[: len(prompt)] == prompt


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("request_body", [NEW_REQUEST_BODY, {}, {"max_tokens": 60}, {"parameters": None}])
def test_llm_ls(client: httpx.Client, backend: str, request_body: dict[str, Any]) -> None:
    url = llm_ls.url_of(backend, str(client.base_url).rstrip("/"), "org/model", verbatim=False)
    reply = client.post(url, json=llm_ls.body_of(backend, FIM, "org/model", request_body), headers=llm_ls.HEADERS)
    assert llm_ls.read(backend, reply.text) == ([REPLY], None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [{"parameters": {"temperature": "hot"}}, {"parameters": {"max_new_tokens": 0}}])
def test_an_error_is_one_that_llm_ls_can_show(client: httpx.Client, backend: str, wrong: dict[str, Any]) -> None:
    url = llm_ls.url_of(backend, str(client.base_url).rstrip("/"), "m", verbatim=False)
    reply = client.post(url, json=llm_ls.body_of(backend, FIM, "m", wrong), headers=llm_ls.HEADERS)
    assert reply.status_code == 422
    completions, message = llm_ls.read(backend, reply.text)
    assert not completions
    assert message is not None
    assert message.startswith(next(iter(wrong["parameters"])))


@pytest.mark.parametrize("path", ["/nothing/here", "/v1/chat"])
def test_an_unknown_path_is_an_error_for_every_backend(client: httpx.Client, path: str) -> None:
    reply = client.post(path, json={})
    assert reply.status_code == 404
    for backend in llm_ls.backends_of(path):
        assert llm_ls.read(backend, reply.text)[1]
    assert "; /openapi.json lists what is answered" in reply.text


def test_a_wrong_method_names_the_right_one(client: httpx.Client) -> None:
    reply = client.get("/generate")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert reply.json()["error_type"] == "method_not_allowed"
    assert reply.json()["error"] == "GET /generate is not answered; use POST"


def test_openais_clients_get_their_own_shape_of_an_error(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"prompt": 7})
    message = "prompt: a string is needed"
    told = {"message": message, "type": "invalid_request_error", "param": "prompt", "code": "validation"}
    assert (reply.status_code, reply.json()["error"]) == (422, told)
    assert client.get("/v1/completions").json()["error"]["code"] == "method_not_allowed"
    assert client.post("/generate", json={"inputs": 7}).json()["error"] == "inputs: a string is needed"


WRONG = [
    ("/v1/completions", {"stream": "yes"}),
    ("/v1/completions", {"suffix": 5}),
    ("/v1/completions", {"model": 5}),
    ("/v1/completions", {"logprobs": 5}),
    ("/v1/completions", {"echo": True}),
    ("/v1/completions", {"echo": 1}),
    ("/v1/completions", {"best_of": 2}),
    ("/v1/completions", {"n": 2}),
    ("/v1/completions", {"top_k": 2.5}),
    ("/generate", {"top_k": 2.5}),
    ("/generate", {"do_sample": "yes"}),
    ("/generate", {"max_new_tokens": -1}),
    ("/generate", {"details": 1}),
    ("/generate", {"return_full_text": "no"}),
    ("/generate", {"best_of": 2}),
    ("/", {"num_return_sequences": 3}),
]


@pytest.mark.parametrize(("path", "wrong"), WRONG)
def test_what_is_of_the_wrong_type_or_cannot_be_had_is_refused_by_name(
    client: httpx.Client, path: str, wrong: dict[str, Any]
) -> None:
    (name,) = wrong
    body = {"prompt": PREFIX, **wrong} if path == "/v1/completions" else {"inputs": PREFIX, "parameters": wrong}
    reply = client.post(path, json=body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["msg"].startswith(f"{name}: ")


def test_where_nothing_streams_a_stream_is_refused(client: httpx.Client) -> None:
    reply = client.post("/generate", json={"inputs": PREFIX, "stream": True})
    assert (reply.status_code, reply.json()["detail"][0]["loc"]) == (422, "stream")
    assert client.post("/generate", json={"inputs": PREFIX, "stream": False}).status_code == 200


def test_what_asks_for_nothing_special_is_no_reason_to_refuse(client: httpx.Client) -> None:
    plain = {"echo": False, "logprobs": None, "best_of": 1, "n": 1, "top_k": 5.0, "max_tokens": -1, "stream": None}
    assert client.post("/v1/completions", json={"prompt": PREFIX, **plain}).status_code == 200


def test_the_prompt_is_echoed_when_asked(client: httpx.Client) -> None:
    reply = client.post("/", json={"inputs": FIM, "parameters": {"return_full_text": True}})
    assert reply.json() == [{"generated_text": FIM + REPLY}]


def test_tgi_gives_details(client: httpx.Client, endless: httpx.Client) -> None:
    body = {"inputs": FIM, "parameters": {"details": True, "max_new_tokens": 3, "seed": 7}}
    details = endless.post("/generate", json=body).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 3, 7)
    reply = client.post("/generate", json={"inputs": FIM, "parameters": {"details": True}}).json()
    assert reply["details"]["finish_reason"] == "eos_token"


def test_explicit_nulls_mean_the_defaults(client: httpx.Client) -> None:
    names = [
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "details",
        "return_full_text",
        "watermark",
    ]
    body = {"inputs": FIM, "parameters": dict.fromkeys(names)}
    assert client.post("/generate", json=body).json() == {"generated_text": REPLY}


def test_unknown_parameters_are_ignored(client: httpx.Client) -> None:
    body = {"inputs": FIM, "parameters": {"typical_p": 0.9, "use_cache": False}, "options": {"a": 1}}
    assert client.post("/", json=body).json() == [{"generated_text": REPLY}]


def test_openai_with_a_suffix(client: httpx.Client) -> None:
    body = {"model": "any-name", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 32, "temperature": 0}
    reply = client.post("/v1/completions", json=body).json()
    assert reply["choices"] == [{"index": 0, "text": REPLY, "logprobs": None, "finish_reason": "stop"}]
    assert (reply["object"], reply["model"]) == ("text_completion", "any-name")
    usage = reply["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["prompt_tokens"] > 10


@pytest.mark.parametrize("suffix", ["", None])
def test_openai_with_an_empty_suffix_takes_a_fim_prompt_apart(
    served: tuple[httpx.Client, ScriptedRunner], bundle: Bundle, suffix: str | None
) -> None:
    client, runner = served
    reply = client.post("/v1/completions", json={"prompt": FIM, "suffix": suffix})
    assert reply.json()["choices"][0]["text"] == REPLY
    before, after = (bundle.tokenizer.encode(text).ids for text in (PREFIX, SUFFIX))
    prompt = [bundle.ids.prefix, bundle.ids.suffix, *after, bundle.ids.middle, *before]
    assert runner.held[: len(prompt)] == prompt


def test_openai_refuses_a_suffix_that_is_no_text(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"prompt": PREFIX, "suffix": [SUFFIX]})
    assert reply.status_code == 422
    assert "suffix" in str(llm_ls.read("openai", reply.text)[1])


@pytest.mark.parametrize("prompt", [PREFIX, [PREFIX]])
def test_openai_takes_a_prompt_or_a_list_of_one(client: httpx.Client, prompt: Any) -> None:
    reply = client.post("/v1/completions", json={"prompt": prompt})
    assert reply.json()["choices"][0]["text"] == REPLY


@pytest.mark.parametrize("prompt", [[], [PREFIX, PREFIX], [[1, 2], [3]], [1.5], 7, None])
def test_openai_refuses_other_prompts(client: httpx.Client, prompt: Any) -> None:
    reply = client.post("/v1/completions", json={"prompt": prompt})
    assert reply.status_code == 422
    assert llm_ls.read("openai", reply.text)[1]


def test_openai_stops_before_a_stop_string(client: httpx.Client) -> None:
    choice = client.post("/v1/completions", json={"prompt": FIM, "stop": " + b"}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("return a", "stop")
    choice = client.post("/v1/completions", json={"prompt": FIM, "stop": ["zz", "\n"]}).json()["choices"][0]
    assert choice["text"] == "return a + b"


def test_openai_ends_at_a_length(endless: httpx.Client) -> None:
    reply = endless.post("/v1/completions", json={"prompt": FIM, "max_tokens": 5}).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 5


def test_openai_streams(client: httpx.Client) -> None:
    body = {"prompt": FIM, "stream": True, "model": "m"}
    with client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    events = [json.loads(line) for line in lines]
    assert "".join(event["choices"][0]["text"] for event in events) == REPLY
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert len({event["id"] for event in events}) == 1


def test_models_and_health(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/health").json()["status"] == "ok"


def test_sampling_with_a_seed_can_be_repeated(endless: httpx.Client) -> None:
    body = {"inputs": FIM, "parameters": {"temperature": 50, "top_p": 1.0, "seed": 3, "max_new_tokens": 20}}
    first, second = (endless.post("/", json=body).text for _ in range(2))
    assert first == second
    body["parameters"]["seed"] = 4
    assert endless.post("/", json=body).text != first


def test_at_the_end_of_a_file_a_fim_prompt_is_an_editors_and_goes_through_the_rules(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "return a + b\n\ndef other():\n    pass\n"))
    fim = f"<fim_prefix>{PREFIX}<fim_suffix><fim_middle>"
    with serving(completer) as client:
        ruled = client.post("/generate", json={"inputs": fim}).json()["generated_text"]
        raw = client.post("/generate", json={"inputs": PREFIX}).json()["generated_text"]
    assert ruled == "return a + b"
    assert "def other" in raw
