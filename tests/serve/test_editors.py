"""Editors' plugins, as far as what they send and read can be restated, against the server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from serve.bundle import Bundle
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.editors import EDITORS, Editor, Unreadable
from tests.serve.scripted import ScriptedRunner, fails
from tests.serve.test_limits import without_room

REPLY = "return a + b"
PREFIX, SUFFIX = "def add(a, b):\n    result = 1\n    ", "\n\nprint(add(1, 2))\n"
KEY = "secret"
every_editor = pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[tuple[httpx.Client, ScriptedRunner]]:
    completer, runner = completer_for(bundle, saying(bundle, REPLY))
    with serving(completer, ServeSettings(api_key=KEY)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client, runner


@every_editor
def test_it_reads_the_completion_of_what_stands_around_the_cursor(
    served: tuple[httpx.Client, ScriptedRunner], editor: Editor, bundle: Bundle
) -> None:
    client, runner = served
    assert editor.ask(client, PREFIX, SUFFIX) == REPLY
    # llama.cpp's editors leave the blanks out that alone stand before the cursor.
    prefix = PREFIX.rstrip(" ") if editor.path == "/infill" else PREFIX
    before, after = (bundle.tokenizer.encode(text).ids for text in (prefix, SUFFIX))
    prompt = [bundle.ids.prefix, bundle.ids.suffix, *after, bundle.ids.middle, *before]
    assert runner.held[: len(prompt)] == prompt


@every_editor
def test_the_end_of_a_file(served: tuple[httpx.Client, ScriptedRunner], editor: Editor) -> None:
    assert editor.ask(served[0], PREFIX, "") == REPLY


@every_editor
def test_it_shows_why_it_is_refused(served: tuple[httpx.Client, ScriptedRunner], editor: Editor) -> None:
    shown = "nothing is shown" if editor is EDITORS["llama.vim"] else "a valid API key is needed"
    with httpx.Client(base_url=served[0].base_url) as stranger, pytest.raises(Unreadable, match=shown):
        editor.ask(stranger, PREFIX, SUFFIX)


@every_editor
def test_it_shows_that_there_is_no_room(bundle: Bundle, editor: Editor) -> None:
    shown = "nothing is shown" if editor is EDITORS["llama.vim"] else "the server is busy"
    with without_room(bundle) as client, pytest.raises(Unreadable, match=shown):
        replace(editor, agent="third").ask(client, PREFIX, SUFFIX)


@every_editor
def test_it_shows_that_the_model_failed(bundle: Bundle, editor: Editor) -> None:
    shown = "nothing is shown" if editor is EDITORS["llama.vim"] else "the server failed"
    with serving(completer_for(bundle, fails)[0]) as client, pytest.raises(Unreadable, match=shown):
        editor.ask(client, PREFIX, SUFFIX)


def test_an_indentation_that_the_editor_takes_off_itself(bundle: Bundle) -> None:
    # llama.cpp's editors ask from the line's beginning, and reuse the answer once the first word is typed.
    with serving(completer_for(bundle, saying(bundle, "    " + REPLY))[0]) as client:
        for name in ("llama.vim", "llama.vscode"):
            assert EDITORS[name].ask(client, PREFIX, SUFFIX) == "    " + REPLY


def test_other_files_from_continue_reach_a_model_that_knows_a_separator(qwen_bundle: Bundle) -> None:
    completer, runner = completer_for(qwen_bundle, saying(qwen_bundle, REPLY))
    with serving(completer) as client:
        editor = EDITORS["Continue, OpenAI"]
        body = editor.body(PREFIX, SUFFIX)
        head = "<|repo_name|>shop\n<|file_sep|>cart.py\nclass Cart:\n    pass\n\n<|file_sep|>main.py\n"
        body["prompt"] = head + body["prompt"]
        assert editor.read(client.post(editor.path, json=body)) == REPLY
    read = qwen_bundle.tokenizer.decode(runner.held, skip_special_tokens=False)
    assert read.startswith("<|file_sep|>cart.py\nclass Cart:\n    pass\n<|file_sep|><|fim_prefix|>def add")


def test_llama_vims_instructions(chat_bundle: Bundle) -> None:
    completer, runner = completer_for(chat_bundle, saying(chat_bundle, "Done."))
    asked = {"id_slot": 0, "messages": [{"role": "user", "content": "x = 1"}], "samplers": [], "cache_prompt": True}
    with serving(completer) as client:
        warm_up = asked | {"n_predict": 0, "stream": False, "response_fields": [""]}
        said = client.post("/v1/chat/completions", json=warm_up).json()
        assert said["choices"][0]["message"]["content"] == ""
        read = len(runner.held)
        assert read == said["usage"]["prompt_tokens"]
        reply = client.post("/v1/chat/completions", json=asked | {"min_p": 0.1, "temperature": 0.1, "stream": True})
        assert runner.calls[-1][1] >= read - 1
        events = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "Done."


def test_what_they_look_up(served: tuple[httpx.Client, ScriptedRunner]) -> None:
    client = served[0]
    # Continue fills in the middle if the template says that it can, and reads parameters a line at a time.
    shown = client.post("/api/show", json={"name": "any"}).json()
    assert ".Suffix" in shown["template"]
    assert all(re.fullmatch(r"(\S+)\s+((?:\".*\")|\S+)", line) for line in shown["parameters"].split("\n"))
    # Zed lists the models; every field must be there.
    (model,) = client.get("/api/tags").json()["models"]
    assert all(isinstance(model[name], str) for name in ("name", "modified_at", "digest"))
    assert isinstance(model["size"], int)
    details = {"format", "family", "parameter_size", "quantization_level"}
    assert all(isinstance(model["details"][name], str) for name in details)
    # llama.vscode looks for a status, for the models, and for the size of the context of llama.cpp's.
    assert client.get("/health").json()["status"] == "ok"
    assert len(client.get("/v1/models").json()["data"]) == 1
    assert client.get("/props").json()["default_generation_settings"]["n_ctx"] > 0
