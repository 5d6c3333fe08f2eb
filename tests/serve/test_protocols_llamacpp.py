"""What llama.vim and llama.vscode send, in llama.cpp's dialect, and what they read of the answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve import prompts
from serve.bundle import Bundle
from serve.protocols import Exchange, describe, llamacpp
from serve.requests import CompletionRequest
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.scripted import ScriptedRunner, repeats

REPLY = "return a + b"
PREFIX, SUFFIX = "def add(a, b):\n", "\n\nprint(add(1, 2))\n"
FIM = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"
# As llama.vim 2025 sends it.
FIELDS = [
    "content",
    "timings/prompt_n",
    "timings/prompt_ms",
    "timings/prompt_per_second",
    "timings/predicted_n",
    "timings/predicted_ms",
    "timings/predicted_per_second",
    "timings/truncated",
    "tokens_cached",
]
VIM = {
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "x.py"}],
    "prompt": "    ",
    "n_predict": 128,
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": FIELDS,
}


def test_llama_vim(client: httpx.Client) -> None:
    reply = client.post("/infill", json=VIM)
    assert reply.status_code == 200
    assert reply.text.startswith('{"content":')  # it looks for the key without a space behind it
    said = reply.json()
    assert said["content"] == REPLY
    assert set(said) == set(FIELDS) - {"timings/truncated"}
    assert said["timings/predicted_n"] > 2


def test_what_was_typed_goes_behind_the_prefix(served: tuple[httpx.Client, ScriptedRunner], bundle: Bundle) -> None:
    client, runner = served
    client.post("/infill", json=VIM | {"input_extra": []})
    before, after = (bundle.tokenizer.encode(text).ids for text in (PREFIX + "    ", SUFFIX))
    prompt = [bundle.ids.prefix, bundle.ids.suffix, *after, bundle.ids.middle, *before]
    assert runner.held[: len(prompt)] == prompt


def wanted_by(body: dict[str, Any], bundle: Bundle) -> CompletionRequest:
    asked = llamacpp.infill(body, describe(bundle))
    assert isinstance(asked, Exchange)
    return asked.wanted


def test_the_request_says_it_is_an_editors_with_its_other_files_and_deadline(bundle: Bundle) -> None:
    wanted = wanted_by(VIM, bundle)
    assert (wanted.raw, wanted.deadline_ms, wanted.extra) == (False, 1500, (("x.py", "x = 1\n"),))
    plain = wanted_by({"input_prefix": "", "input_suffix": ""}, bundle)
    assert (plain.raw, plain.deadline_ms, plain.extra) == (False, None, ())


@pytest.mark.parametrize("stream", [False, True])
def test_a_warm_up_says_nothing(served: tuple[httpx.Client, ScriptedRunner], stream: bool) -> None:
    client, runner = served
    long = "".join(f"value_{number} = {number}\n" for number in range(200))
    body = {"input_prefix": long, "input_suffix": SUFFIX, "n_predict": 0, "stream": stream}
    reply = client.post("/infill", json=body)
    said = json.loads(reply.text.removeprefix("data: "))
    assert (said["content"], said["stop"]) == ("", True)
    calls = len(runner.calls)
    client.post("/infill", json=body)
    assert len(runner.calls) == calls + 1  # all but the last token was in the cache


def test_a_warm_up_takes_the_time_that_it_needs(bundle: Bundle) -> None:
    wanted = wanted_by(VIM | {"n_predict": 0, "t_max_prompt_ms": 1, "t_max_predict_ms": 1}, bundle)
    assert (wanted.max_tokens, wanted.deadline_ms) == (0, None)


def test_a_warm_up_without_text_leaves_the_cache_alone(
    served: tuple[httpx.Client, ScriptedRunner], qwen_bundle: Bundle
) -> None:
    client, runner = served
    empty = VIM | {"input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0}
    held = list(runner.held)
    assert client.post("/infill", json=empty | {"response_fields": [""]}).status_code == 200
    assert runner.held == held
    # A model that sees other files has those to read.
    completer, runner = completer_for(qwen_bundle, saying(qwen_bundle, REPLY))
    with serving(completer) as http:
        http.post("/infill", json=empty)
    read = qwen_bundle.tokenizer.decode(runner.held, skip_special_tokens=False)
    assert read.startswith("<|file_sep|>x.py\nx = 1\n<|file_sep|>")


@pytest.mark.parametrize("path", ["/completion", "/completions"])
@pytest.mark.parametrize("prompt", [FIM, [FIM]])
def test_completion(client: httpx.Client, path: str, prompt: Any) -> None:
    body = {"prompt": prompt, "n_predict": -1, "temperature": 0, "seed": 0xFFFFFFFF, "repeat_penalty": 1.0}
    said = client.post(path, json=body).json()
    assert (said["content"], said["stop"], said["stop_type"]) == (REPLY, True, "eos")
    assert said["tokens_predicted"] == said["timings"]["predicted_n"] > 2
    assert said["tokens_evaluated"] == said["timings"]["prompt_n"] + said["timings"]["cache_n"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("least", "text"), [(0, "a:\n    b\n\n\tc\n  d"), (1, "a:\n    b\n\n\tc\n  d"), (2, "a:\n    b")]
)
def test_a_line_that_is_indented_too_little_ends_it(bundle: Bundle, least: int, text: str, stream: bool) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "a:\n    b\n\n\tc\n  d"))
    with serving(completer) as client:
        reply = client.post("/completion", json={"prompt": "x = ", "n_indent": least, "stream": stream})
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n") if line]
    assert "".join(event["content"] for event in events) == text
    assert events[-1]["stop_type"] == ("word" if least == 2 else "eos")


def test_why_it_ended(client: httpx.Client, bundle: Bundle) -> None:
    said = client.post("/completion", json={"prompt": FIM, "stop": [" + b"]}).json()
    assert (said["content"], said["stop_type"]) == ("return a", "word")
    token = bundle.tokenizer.encode("x").ids[0]
    with serving(completer_for(bundle, repeats(token))[0]) as endless:
        said = endless.post("/completion", json={"prompt": FIM, "n_predict": 3}).json()
        assert (said["content"], said["stop_type"], said["tokens_predicted"]) == ("xxx", "limit", 3)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/infill", {"input_prefix": PREFIX, "input_suffix": SUFFIX}), ("/completion", {"prompt": FIM})],
)
def test_it_streams(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    reply = client.post(path, json=body | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert "".join(event["content"] for event in events) == REPLY
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_predicted"] > 2
    assert "timings" in events[-1]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("input_prefix", {"input_prefix": None}),
    ("input_suffix", {"input_suffix": 5}),
    ("prompt", {"prompt": ["a"]}),
    ("filename", {"input_extra": [{"text": "a", "filename": 5}]}),
    ("text", {"input_extra": [{"filename": "a"}]}),
    ("input_extra", {"input_extra": ["a"]}),
    ("input_extra", {"input_extra": {}}),
    ("n_predict", {"n_predict": -3}),
    ("n_predict", {"n_predict": False}),
    ("n_indent", {"n_indent": "4"}),
    ("cache_prompt", {"cache_prompt": "yes"}),
    ("t_max_predict_ms", {"t_max_predict_ms": "soon"}),
    ("response_fields", {"response_fields": [5]}),
    ("grammar", {"grammar": "root ::= [0-9]"}),
    ("n_probs", {"n_probs": 3}),
    ("stop", {"stop": 5}),
    ("repeat_penalty", {"repeat_penalty": "much"}),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_what_cannot_be_had_is_refused_by_name_in_llama_cpps_shape(
    client: httpx.Client, name: str, wrong: dict[str, Any]
) -> None:
    reply = client.post("/infill", json={"input_prefix": PREFIX, "input_suffix": SUFFIX, **wrong})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (422, 422, "invalid_request_error")
    assert error["message"].startswith(f"{name}: ")


def test_props(client: httpx.Client, bundle: Bundle) -> None:
    said = client.get("/props").json()
    assert said["default_generation_settings"]["n_ctx"] == bundle.context_size
    assert said["total_slots"] == 1


def test_other_files_go_in_front_of_a_prompt_where_the_model_knows_a_separator(
    bundle: Bundle, qwen_bundle: Bundle
) -> None:
    files = (("far.py", "far = 1\n" * 40), ("near.py", "near = 2\n"))

    def built(bundle: Bundle, room: int, extra: tuple[tuple[str, str], ...]) -> list[int]:
        return prompts.build(PREFIX, SUFFIX, bundle.tokenizer, bundle.spec, bundle.ids, room, extra)

    assert built(bundle, 2000, files) == built(bundle, 2000, ())
    plain = built(qwen_bundle, 2000, ())
    text = qwen_bundle.tokenizer.decode(built(qwen_bundle, 2000, files), skip_special_tokens=False)
    around = qwen_bundle.tokenizer.decode(plain, skip_special_tokens=False)
    head = "".join(f"<|file_sep|>{name}\n{content}" for name, content in files) + "<|file_sep|>"
    assert text == head + around
    for room in range(len(plain), len(plain) + 300, 7):
        ids = built(qwen_bundle, room, files)
        assert len(ids) <= room
        assert ids[len(ids) - len(plain) :] == plain
    near = qwen_bundle.tokenizer.decode(built(qwen_bundle, len(plain) + 60, files), skip_special_tokens=False)
    assert near == "<|file_sep|>near.py\nnear = 2\n<|file_sep|>" + around
