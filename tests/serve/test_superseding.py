"""A user who types on leaves older requests without a reader; a program that asks much at once does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.bundle import Bundle
from serve.requests import CompletionRequest
from serve.settings import ServeSettings
from serve.superseding import WINDOW, supersedes
from tests.serve.conftest import completer_for, serving, until
from tests.serve.scripted import ScriptedRunner, repeats
from tests.serve.test_metrics import counted

FILE = "".join(f"def area_{n}(width, height):\n    return width * height + {n}\n\n\n" for n in range(200))
OTHER = "".join(f"class Shape{n}:\n    sides = {n}\n\n    def name(self):\n        return {n}\n\n" for n in range(200))
AT = FILE.index("def area_100")


def seen(text: str, cursor: int, window: int = WINDOW) -> CompletionRequest:
    """What an editor sends with the cursor there."""
    return CompletionRequest(text[max(cursor - window, 0) : cursor], text[cursor : cursor + window], raw=False)


def typed(words: str, after: str = "", window: int = WINDOW) -> CompletionRequest:
    """With `words` before the cursor and `after` behind it, in the middle of the file."""
    return seen(FILE[:AT] + words + after + FILE[AT:], AT + len(words), window)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (typed("x"), typed("x =")),
        (typed("x = area"), typed("x = ")),
        (typed("x = "), typed("x = area_100(width, height)\ny = ")),
        (typed("call"), typed("call(", ")")),
        (typed("call(", ")"), typed("call().")),
        (typed("if (a) {", "}"), typed("if (a) {\n    ", "\n}")),
        (typed("x", window=500), typed("x = area_1(2, 3)", window=500)),
        (seen(FILE, AT), seen(FILE, AT + 500)),
        (seen(FILE, AT), seen(FILE, AT - 700)),
        (seen(FILE, AT), typed("# a")),
        (seen("", 0), seen("d", 1)),
        (seen("import o", 8), seen("import os", 9)),
        (seen("import os", 9), seen("import o", 8)),
    ],
)
def test_typing_deleting_and_moving_supersede(older: CompletionRequest, newer: CompletionRequest) -> None:
    assert supersedes(newer, older)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (typed("x"), typed("x")),
        (seen(FILE, AT), seen(FILE, len(FILE) - 500)),
        (typed("x = 1"), typed("y = 2")),
        (typed("x"), seen(OTHER, 5000)),
        (seen(OTHER, len(OTHER)), seen("d", 1)),
        (seen("import os\n" * 9 + "one", 93), seen("import os\n" * 9 + "two", 93)),
        (replace(typed("x"), raw=True), typed("xy")),
        (typed("x"), replace(typed("xy"), raw=True)),
        (CompletionRequest("def f"), CompletionRequest("def f(")),
    ],
)
def test_other_places_the_same_again_and_raw_text_do_not(older: CompletionRequest, newer: CompletionRequest) -> None:
    assert not supersedes(newer, older)


@pytest.mark.parametrize("asked", [typed("x"), seen("d", 1), CompletionRequest("a script's")])
def test_reading_ahead_gives_way_to_whatever_is_asked_and_takes_nothings_place(asked: CompletionRequest) -> None:
    for reading in (CompletionRequest("", raw=False, max_tokens=0), replace(asked, max_tokens=0)):
        assert supersedes(asked, reading)
        assert not supersedes(reading, asked)
        assert supersedes(reading, reading)


def test_infilling_one_line_of_a_file_after_another_is_no_typing() -> None:
    """As evaluations do it: each request lacks another line of the same file."""
    lines = FILE[:3000].splitlines(keepends=True)
    cuts = [n for n, line in enumerate(lines) if line.strip()]
    asked = [CompletionRequest("".join(lines[:n]), "".join(lines[n + 1 :])) for n in cuts]
    assert not any(supersedes(one, other) for one in asked for other in asked)


TEXT = st.text(st.sampled_from("ab(){}\n \"'é𝄞"), max_size=60)
LONG = st.builds(lambda text, times: text * times, TEXT, st.integers(1, 30))


@given(before=LONG, after=TEXT, words=st.text(max_size=20), window=st.integers(400, 900))
def test_whatever_was_typed_or_deleted_supersedes(before: str, after: str, words: str, window: int) -> None:
    here, there = CompletionRequest(before[-window:], after, raw=False), before + words
    newer = CompletionRequest(there[-window:], after, raw=False)
    assert supersedes(newer, here) == supersedes(here, newer) == (newer != here)


@given(one=TEXT, other=TEXT, third=TEXT, fourth=TEXT)
def test_any_two_texts_can_be_compared(one: str, other: str, third: str, fourth: str) -> None:
    supersedes(CompletionRequest(one, other, raw=False), CompletionRequest(third, fourth, raw=False))


@pytest.fixture
def slow(bundle: Bundle) -> Iterator[tuple[httpx.Client, ScriptedRunner]]:
    """A client of a server that needs two seconds for 40 tokens, unless it is ended; each is told at once."""
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.05
    with serving(replace(completer, pipeline=())) as client:
        yield client, runner


Body = dict[str, Any]
Asking = Callable[[str], Body]
DIALECTS: dict[str, tuple[str, Asking, Callable[[Any], object]]] = {
    "llm-vscode 0.0.38": (
        "/",
        lambda typed: {
            "inputs": f"<fim_prefix>{typed}<fim_suffix>\n<fim_middle>",
            "parameters": {"max_new_tokens": 40},
        },
        lambda reply: reply[0]["generated_text"],
    ),
    "the same at the end of a file": (
        "/",
        lambda typed: {
            "inputs": typed,
            "parameters": {
                **{"max_new_tokens": 40, "temperature": 0.2, "do_sample": True, "top_p": 0.95},
                "stop": ["<|endoftext|>"],
            },
        },
        lambda reply: reply[0]["generated_text"],
    ),
    "OpenAI": (
        "/v1/completions",
        lambda typed: {"prompt": typed, "suffix": "\n", "max_tokens": 40},
        lambda reply: reply["choices"][0]["text"],
    ),
    "llama.cpp": (
        "/infill",
        lambda typed: {"input_prefix": "", "prompt": typed, "input_suffix": "\n", "n_predict": 40},
        lambda reply: reply["content"],
    ),
    "Ollama": (
        "/api/generate",
        lambda typed: {"prompt": typed, "suffix": "\n", "stream": False, "options": {"num_predict": 40}},
        lambda reply: reply["response"],
    ),
    "Tabby": (
        "/v1/completions",
        lambda typed: {"segments": {"prefix": typed, "suffix": "\n"}},
        lambda reply: reply["choices"][0]["text"],
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_older_is_answered_empty_at_once_in_its_dialect(
    slow: tuple[httpx.Client, ScriptedRunner], dialect: str
) -> None:
    client, _ = slow
    path, asking, text = DIALECTS[dialect]
    with ThreadPoolExecutor(4) as pool:

        def ask(typed: str) -> Future[httpx.Response]:
            return pool.submit(client.post, path, json=asking(typed))

        running = ask("def f")
        until(lambda: counted(client)["num_requests_running"] == 1)
        queued = ask("def fa")  # which ends the first, and waits until the model has noticed
        first = running.result(2)
        newest = ask("def fac")
        second = queued.result(2)
        assert (first.status_code, second.status_code) == (200, 200)
        assert text(first.json()) == text(second.json()) == ""
        until(lambda: counted(client)["num_requests_waiting"] == 0)
        assert counted(client)["request_superseded_total"] == 2
        last = ask("def fact")
        assert text(newest.result(2).json()) == ""
        assert text(last.result(20).json()).startswith("xxxx")


def test_a_stream_ends_where_it_is(slow: tuple[httpx.Client, ScriptedRunner]) -> None:
    client, _ = slow
    body = {"prompt": "def f", "suffix": "\n", "max_tokens": 40, "stream": True}
    with ThreadPoolExecutor(1) as pool, client.stream("POST", "/v1/completions", json=body) as reply:
        lines = filter(None, reply.iter_lines())
        first = next(lines)
        newer = pool.submit(client.post, "/v1/completions", json=body | {"prompt": "def fa", "stream": False})
        *pieces, last, done = [first, *lines]
        assert len(pieces) < 20
        assert done == "data: [DONE]"
        assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"
        assert newer.result(20).json()["choices"][0]["text"].startswith("xxxx")


def test_other_clients_and_scripts_are_left_alone(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.01
    fim = {"prompt": "def f", "suffix": "\n", "max_tokens": 10}
    asked = [
        ({"User-Agent": "one editor"}, fim),
        ({"User-Agent": "another"}, fim | {"prompt": "def fa"}),
        ({"User-Agent": "another", "Authorization": "Bearer of another"}, fim | {"prompt": "def fac"}),
        *(({"User-Agent": "script"}, {"prompt": "def f" + "a" * n, "max_tokens": 10}) for n in range(3)),
        *(({"User-Agent": "sampling"}, fim) for _ in range(3)),
    ]
    with serving(completer) as client, ThreadPoolExecutor(len(asked)) as pool:
        replies = list(pool.map(lambda one: client.post("/v1/completions", headers=one[0], json=one[1]), asked))
        assert [reply.json()["choices"][0]["text"] for reply in replies] == ["x" * 10] * len(asked)
        assert counted(client)["request_superseded_total"] == 0


def test_it_can_be_switched_off(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.01
    with serving(completer, ServeSettings(supersede=False)) as client, ThreadPoolExecutor(3) as pool:
        bodies = [{"prompt": "def f" + "a" * n, "suffix": "\n", "max_tokens": 10} for n in range(3)]
        replies = list(pool.map(lambda body: client.post("/v1/completions", json=body), bodies))
        assert [reply.json()["choices"][0]["text"] for reply in replies] == ["x" * 10] * 3
