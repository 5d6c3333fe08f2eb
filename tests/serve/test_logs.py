"""What the log of a real server holds, and what it must not."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serve.bundle import Bundle
from serve.logs import Lines, Words
from tests.serve.conftest import completer_for, serving, until, write_bundle
from tests.serve.process import ROOT, process

CODE = {"prompt": "launch_codes = ", "suffix": "\nfire()", "max_tokens": 5, "temperature": 0}
KEY = {"Authorization": "Bearer s3cret"}


def logged(running: subprocess.Popen[str]) -> list[str]:
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 0
    return errors.splitlines()


def test_a_request_is_one_json_object_without_its_text(bundle: Bundle) -> None:
    with process(bundle.folder, log_format="json", api_key="s3cret") as (running, url):
        headers = KEY | {"User-Agent": "llm-ls/0.5.3; ide/VSCode"}
        httpx.post(f"{url}/v1/completions", json=CODE, headers=headers)
        httpx.post(f"{url}/v1/completions", json=CODE | {"stream": True}, headers=headers)
        httpx.post(f"{url}/v1/completions", json=CODE, headers={"Authorization": "Bearer guessed"})
        httpx.post(f"{url}/", json={"inputs": 7}, headers=KEY)
        httpx.get(f"{url}/health")
        lines = logged(running)
    whole, streamed, refused, wrong = (json.loads(line) for line in lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", whole.pop("time"))
    assert 0 < whole.pop("first_token_ms") < whole.pop("ms")
    assert whole.pop("queue_ms") >= 0
    assert whole == {
        **{"level": "info", "logger": "fimble.requests", "message": "request"},
        **{"method": "POST", "path": "/v1/completions", "status": 200, "address": "127.0.0.1"},
        **{"client": "llm-ls/0.5.3; ide/VSCode", "model": "tiny", "finish": "length"},
        **{"prompt_tokens": whole["prompt_tokens"], "cached_tokens": 0, "generated_tokens": 5},
    }
    assert streamed["cached_tokens"] == whole["prompt_tokens"] - 2  # the last one is healed, the one before computed
    assert (refused["status"], wrong["status"]) == (401, 422)
    for secret in ("launch", "fire", "s3cret", "guessed", "ttttt"):
        assert not any(secret in line for line in lines)


def test_why_it_ended_tells_who_left_and_what_was_superseded(bundle: Bundle) -> None:
    with process(bundle.folder, log_format="json") as (running, url), ThreadPoolExecutor(2) as pool:
        body = CODE | {"max_tokens": 60}
        older = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=20)
        until(lambda: "running 1.0" in httpx.get(f"{url}/metrics").text)
        newer = pool.submit(httpx.post, f"{url}/v1/completions", json=body | {"prompt": "launch_codes = 1"}, timeout=20)
        assert older.result().json()["choices"][0]["text"] == ""
        newer.result()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=body, timeout=0.3)
        until(lambda: "running 0.0" in httpx.get(f"{url}/metrics").text)
        found = [json.loads(line) for line in logged(running)]
    assert [(line["status"], line["finish"]) for line in found] == [
        (200, "superseded"),
        (200, "length"),
        (499, "cancelled"),
    ]


def test_text_is_logged_where_the_user_wants_it(bundle: Bundle) -> None:
    with process(bundle.folder, log_format="json", log_prompts=True) as (running, url):
        httpx.post(f"{url}/v1/completions", json=CODE)
        (line,) = (json.loads(line) for line in logged(running))
    assert (line["prefix"], line["suffix"]) == (CODE["prompt"], CODE["suffix"])
    assert line["completion"] == "ttttt"


def test_no_client_can_write_a_line_of_its_own(bundle: Bundle) -> None:
    with process(bundle.folder, log_format="text") as (running, url):
        httpx.get(f"{url}/no%0A12:00:00%20request%20forged", headers={"User-Agent": 'a b" status=200'})
        (line,) = logged(running)
    assert re.match(r'\d\d:\d\d:\d\d request method=GET path="/no\\n12:00:00 request forged" ', line)
    assert 'client="a b\\" status=200" status=404' in line


def test_a_template_that_fails_is_logged_without_the_messages(trained: Tokenizer, tmp_path: Path) -> None:
    template = "{% for message in messages %}\n{{ {}[message.content].x }}{% endfor %}"
    folder = write_bundle(tmp_path / "tiny", trained, files={"chat_template.jinja": template})
    asked = {"messages": [{"role": "user", "content": "launch_codes"}]}
    with process(folder, log_format="text") as (running, url):
        refused = httpx.post(f"{url}/v1/chat/completions", json=asked)
        lines = logged(running)
    assert refused.status_code == 500
    assert "launch_codes" in refused.json()["error"]["message"]
    assert [line.split(" ", 1)[1] for line in lines[:-1]] == [
        "the model's chat template failed: UndefinedError in line 2"
    ]
    assert "status=500" in lines[-1]
    assert "launch" not in "".join(lines)


def command(*words: object) -> subprocess.Popen[str]:
    """`fimble` as a process of its own, with the scripted model that `process.py` has."""
    program = """
import sys
from serve.backends import native
from tests.serve.process import load_runner
from toolchain.cli import main
if "--scripted" in sys.argv:
    sys.argv.remove("--scripted")
    native.load_runner = load_runner
main()
"""
    line = [sys.executable, "-P", "-c", program, *map(str, words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, **pipes)


def test_every_line_of_a_server_with_a_json_log_is_an_object(bundle: Bundle) -> None:
    with command("serve", bundle.folder, "--port", 0, "--log-format", "json", "--scripted") as running:
        assert running.stdout is not None
        told = json.loads(running.stdout.readline())
        httpx.post(f"{told['url']}/v1/completions", json=CODE)
        running.send_signal(signal.SIGTERM)
        rest, errors = running.communicate(timeout=20)
    assert (running.returncode, rest) == (0, "")
    begun, request, stopped = (json.loads(line) for line in errors.splitlines())
    assert begun["message"] == f"serving tiny at {told['url']}"
    assert (request["message"], request["status"], stopped["message"]) == ("request", 200, "stopped")


def test_what_ends_a_server_with_a_json_log_is_an_object_too(bundle: Bundle, tmp_path: Path) -> None:
    for folder in (bundle.folder, tmp_path):  # one whose library is empty, and none
        with command("serve", folder, "--port", 0, "--log-format", "json") as running:
            out, errors = running.communicate(timeout=60)
        *_, last = (json.loads(line) for line in errors.splitlines())
        assert (running.returncode, out, last["level"]) == (2, "", "error")
        assert str(folder) in last["message"]
        assert last["next_step"]


@pytest.mark.parametrize("stream", [False, True])
def test_logits_that_are_no_numbers_are_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    def broken(held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        return np.full(vocab_size, np.nan, np.float32)

    with serving(completer_for(bundle, broken)[0]) as client:
        client.post("/v1/completions", json=CODE | {"stream": stream})
    assert "failed: the model gave logits that are not numbers" in caplog.text


@pytest.mark.parametrize("formatter", [Lines(), Words()])
def test_an_error_keeps_its_traceback(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        record: Any = logging.LogRecord("a", logging.ERROR, str(Path(__file__)), 1, "failed", None, sys.exc_info())
    assert "ValueError: what went wrong" in formatter.format(record)
