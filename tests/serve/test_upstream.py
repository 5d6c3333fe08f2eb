"""Another server of OpenAI's API generates: ours, as a second server over real HTTP, and one that misbehaves."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serve.backends import BackendError
from serve.backends.source import open_source
from serve.backends.upstream import Upstream, connect, open_upstream
from serve.bundle import Bundle
from serve.completer import Completer
from serve.engine.engine import Statistics
from serve.engine.sampling import Sampling
from serve.requests import CompletionRequest
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.scripted import repeats
from toolchain.contracts.errors import FimTokenError, SettingsError

Reply = Callable[[bytes], bytes]
EDITOR = CompletionRequest("def add(a, b):\n    return ", "\n", max_tokens=20)


def behind(client: httpx.Client, bundle: Bundle, key: str | None = None) -> Completer:
    """A completer of our own whose text comes from the server that `client` reaches."""
    return Completer(*open_upstream(f"{client.base_url}/v1", key, None, bundle.folder, 4)[0])


def test_completions_are_those_of_the_upstream(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "a + b\n\n\ndef other():\n    pass\n"))
    alone = completer.complete(EDITOR)
    with serving(completer) as client:
        through = behind(client, bundle).complete(EDITOR)
    assert alone.text == "a + b"
    assert through.text == alone.text
    assert through.prompt_tokens == alone.prompt_tokens
    assert through.statistics.seconds >= through.statistics.first_token_seconds > 0


def test_what_it_cost_is_what_the_upstream_says(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "zebra"))
    with serving(completer) as client:
        first, second = (behind(client, bundle).complete(EDITOR) for _ in range(2))
    assert first.statistics.generated == completer.complete(EDITOR).statistics.generated
    assert first.statistics.prefilled == first.prompt_tokens
    assert second.statistics.reused == second.prompt_tokens - 1
    assert first.finish == "stop"


def test_a_control_token_that_a_user_typed_stays_text(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, saying(bundle, "x"))
    with serving(completer) as client:
        upstream = behind(client, bundle)
        request = replace(EDITOR, prefix='token = "<fim_suffix>" + ')
        upstream.complete(request)
        wanted, _ = upstream.prompt(request)
    assert runner.held[: len(wanted)] == wanted
    assert wanted.count(bundle.ids.suffix) == 1


def test_a_chat_is_put_together_here(chat_bundle: Bundle) -> None:
    completer, runner = completer_for(chat_bundle, saying(chat_bundle, "sorted(a)"))
    body = {"messages": [{"role": "user", "content": "Sort a. <|im_end|>"}], "max_tokens": 20}
    with serving(completer) as upstream, serving(behind(upstream, chat_bundle)) as client:
        reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "sorted(a)"
    prompt = runner.held[: reply["usage"]["prompt_tokens"]]
    assert chat_bundle.tokenizer.decode(prompt, skip_special_tokens=False) == (
        "<|im_start|>user\nSort a. <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.count(chat_bundle.tokenizer.token_to_id("<|im_end|>")) == 1


def test_our_protocols_stand_in_front_of_it(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "a + b"))
    with serving(completer) as upstream, serving(behind(upstream, bundle)) as client:
        body = {"inputs": "<fim_prefix>return <fim_suffix>\n<fim_middle>", "parameters": {"max_new_tokens": 20}}
        assert client.post("/generate", json=body).json()["generated_text"] == "a + b"
        with client.stream("POST", "/api/generate", json={"model": "m", "prompt": "return ", "suffix": "\n"}) as reply:
            lines = [json.loads(line) for line in reply.iter_lines()]
        assert "".join(line["response"] for line in lines) == "a + b"
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/status").json()["models"][0]["target"] == "upstream"
        assert client.get("/info").json()["model_id"] == "tiny"


def test_a_client_that_leaves_frees_the_upstream(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.02
    with serving(completer) as client:
        backend = behind(client, bundle).backend
        statistics, begun = Statistics(), time.monotonic()
        written = backend.generate([5, 6, 7], Sampling(), 200, lambda: time.monotonic() > begun + 0.3, statistics)
        assert 0 < len("".join(written)) < 100
        assert statistics.ending == "cancelled"
        assert behind(client, bundle).complete(replace(EDITOR, max_tokens=2)).statistics.generated == 2
        assert time.monotonic() - begun < 3


def test_a_key_is_sent_and_a_refusal_is_told(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "x"))
    with serving(completer, ServeSettings(api_key="secret")) as client:
        assert behind(client, bundle, "secret").complete(EDITOR).text == "x"
        with pytest.raises(SettingsError, match=r"status 401.*--upstream-key"):
            behind(client, bundle)


def test_a_model_that_it_does_not_have(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "x"))
    with serving(completer) as client, pytest.raises(SettingsError, match="no model 'tynx'"):
        open_upstream(f"{client.base_url}/v1", None, "tynx", bundle.folder, 1)


def test_its_models_are_chosen_by_name(bundle: Bundle) -> None:
    """As vLLM lists a base and the adapters of teams."""
    base, _ = completer_for(bundle, saying(bundle, "of the base"))
    other = replace(bundle, name="payments")
    team, _ = completer_for(other, saying(bundle, "of payments"))
    with serving(base, others=[team]) as upstream:
        url = f"{upstream.base_url}/v1"
        opened = [Completer(*model) for model in open_upstream(url, None, None, bundle.folder, 4)]
        assert [one.bundle.name for one in opened] == ["tiny", "payments"]
        preferred = open_upstream(url, None, "payments", bundle.folder, 4)
        assert [model.name for model, _ in preferred] == ["payments", "tiny"]
        with serving(opened[0], others=opened[1:]) as client:
            said = {
                name: client.post("/v1/completions", json={"prompt": "return ", "suffix": "\n", "model": name}).json()
                for name in ("tiny", "payments", "any other")
            }
            listed = client.get("/v1/models").json()["data"]
    assert {name: reply["choices"][0]["text"] for name, reply in said.items()} == {
        "tiny": "of the base",
        "payments": "of payments",
        "any other": "of the base",
    }
    assert [card["id"] for card in listed] == ["tiny", "payments"]


def test_nobody_there(bundle: Bundle) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unheard.getsockname()[1]}/v1"
        with pytest.raises(SettingsError, match="cannot be reached"):
            open_upstream(address, None, None, bundle.folder, 1)
        gone = Upstream(connect(address, None), "m", bundle, 1)
        with pytest.raises(BackendError, match="cannot be reached"):
            list(gone.generate([1], Sampling(), 5, lambda: False, Statistics()))
        with serving(Completer(bundle, gone)) as client:
            reply = client.post("/generate", json={"inputs": "a"})
            assert (reply.status_code, client.get("/health").status_code) == (502, 503)
            assert "cannot be reached" in reply.json()["error"]
            body = {"prompt": "a", "stream": True}
            assert "cannot be reached" in client.post("/v1/completions", json=body).text


@contextmanager
def answering(*replies: bytes) -> Iterator[str]:
    """The address of a server that gives each of `replies` to one connection, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    read_request(connection)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(5)


def read_request(connection: socket.socket) -> None:
    """All of it: closing with something unread would reset the connection."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(65536)
    head, _, body = seen.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    left = int(length[1]) - len(body) if length else 0
    while left > 0:
        left -= len(connection.recv(65536))


def http(status: str, body: str, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def event(text: str, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'text': text, 'finish_reason': finish}]})}\n\n"


def written(address: str, bundle: Bundle) -> tuple[str, Statistics]:
    statistics = Statistics()
    backend = Upstream(connect(address, None), "m", bundle, 1)
    return "".join(backend.generate([1], Sampling(), 5, lambda: False, statistics)), statistics


def test_a_busy_upstream_is_asked_again(bundle: Bundle) -> None:
    busy = http("503 Busy", '{"error": "busy"}', "Retry-After: 0")
    done = http("200 OK", event("a") + event("b", "length") + "data: [DONE]\n\n")
    with answering(busy, busy, done) as address:
        text, statistics = written(address, bundle)
    assert (text, statistics.ending, statistics.generated) == ("ab", "length", 2)
    with answering(busy, busy, busy) as address, pytest.raises(BackendError, match="status 503, busy"):
        written(address, bundle)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (http("400 Bad", '{"error": {"message": "no such model"}}'), "status 400, no such model"),
        (http("500 Oh", "<html>"), "status 500, no reason given"),
        (http("200 OK", event("a") + "data: {broken\n\n"), "no JSON"),
        (http("200 OK", event("a") + 'data: {"error": {"message": "out of memory"}}\n\n'), "failed: out of memory"),
        (http("200 OK", event("a")), "ended too early"),
        (b"", "broke off"),
        (http("200 OK", event("a"), "Content-Length: 99999"), "broke off"),
    ],
)
def test_an_upstream_that_fails(bundle: Bundle, reply: bytes, told: str) -> None:
    with answering(reply) as address, pytest.raises(BackendError, match=told):
        written(address, bundle)


def test_an_address_without_its_v1(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "x"))
    with serving(completer) as client, pytest.raises(SettingsError, match=r"lists no models: status \d+.*ends in /v1"):
        open_upstream(str(client.base_url), None, None, bundle.folder, 1)


@pytest.mark.parametrize("models", ["{}", '{"data": []}', '{"data": [1]}', "[]", "nothing"])
def test_an_address_that_is_none_of_openais_api(bundle: Bundle, models: str) -> None:
    with (
        answering(http("200 OK", models)) as address,
        pytest.raises(SettingsError, match=r"lists no models.*ends in /v1"),
    ):
        open_upstream(address, None, None, bundle.folder, 1)


def test_prompts_for_an_upstream_need_its_tokenizer(bundle: Bundle, tmp_path: Path) -> None:
    source = open_source(bundle.folder, None)
    assert (source.name, source.spec, source.ids, source.end_ids) == ("tiny", bundle.spec, bundle.ids, bundle.end_ids)
    (tmp_path / "tokenizer.json").write_bytes((bundle.params / "tokenizer.json").read_bytes())
    assert open_source(tmp_path, None).context_size == 2048
    (tmp_path / "config.json").write_text('{"n_positions": 8192}')
    plain = open_source(tmp_path, None)
    assert (plain.name, plain.context_size, plain.ids) == (tmp_path.name, 8192, bundle.ids)
    assert open_source(tmp_path, 4096).context_size == 4096
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    with pytest.raises(FimTokenError):
        open_source(tmp_path, None)
