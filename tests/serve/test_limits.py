"""Clients that ask too much, leave, or should not be asking at all."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.completer import Completer
from serve.http import bodies
from serve.settings import ServeSettings
from tests.serve import llm_ls
from tests.serve.conftest import completer_for, saying, serving, until
from tests.serve.scripted import ScriptedRunner, repeats
from tests.serve.test_metrics import counted

BODY = {"inputs": "<fim_prefix>a<fim_suffix>b<fim_middle>", "parameters": {"max_new_tokens": 100}}


@pytest.fixture
def slow(bundle: Bundle) -> tuple[Completer, ScriptedRunner]:
    """Some 20 ms a token, so 2 seconds for a hundred."""
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.02
    return completer, runner


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, saying(bundle, "ok"))[0]) as client:
        yield client


def settled(runner: ScriptedRunner) -> int:
    """How many calls there were once no more come."""
    count = -1
    while count != len(runner.calls):
        count = len(runner.calls)
        time.sleep(0.1)
    return count


def waiting(client: httpx.Client) -> int:
    return int(counted(client)["num_requests_waiting"])


def raw_post(client: httpx.Client, path: str, body: dict[str, Any], agent: str = "") -> socket.socket:
    """A connection with a request on it, that can be dropped."""
    content = json.dumps(body).encode()
    url = client.base_url
    connection = socket.create_connection((url.host, url.port))
    head = f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nUser-Agent: {agent}\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@contextmanager
def without_room(bundle: Bundle) -> Iterator[httpx.Client]:
    """A server that computes for one program, has another wait, and has no place for a third."""
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.2
    with serving(completer, ServeSettings(queue_limit=1)) as client:
        body = {"prompt": "a", "max_tokens": 200}
        held = [raw_post(client, "/v1/completions", body, agent) for agent in ("first", "second")]
        until(lambda: waiting(client) == 1)
        try:
            yield client
        finally:
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("path", "extra"), [("/", {}), ("/v1/completions", {"prompt": "a", "stream": True, "max_tokens": 100})]
)
def test_a_client_that_leaves_ends_its_generation(
    slow: tuple[Completer, ScriptedRunner], path: str, extra: dict[str, Any]
) -> None:
    completer, runner = slow
    with serving(completer) as client:
        connection = raw_post(client, path, BODY | extra)
        until(lambda: len(runner.calls) > 3)
        connection.close()
        assert settled(runner) < 30
        assert client.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_client_that_leaves_while_it_waits_is_never_computed(
    slow: tuple[Completer, ScriptedRunner], path: str
) -> None:
    completer, runner = slow
    with serving(completer) as client:
        first = raw_post(client, "/", BODY)
        until(lambda: len(runner.calls) > 2)
        waiting = raw_post(client, path, {"inputs": "something else entirely"})
        time.sleep(0.1)
        waiting.close()
        time.sleep(0.1)
        first.close()
        settled(runner)
        assert all(call[1] != 0 for call in runner.calls[1:])


def test_health_answers_during_a_generation(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, runner = slow
    with serving(completer) as client:
        connection = raw_post(client, "/", BODY)
        until(lambda: len(runner.calls) > 2)
        begun = time.monotonic()
        assert client.get("/health").status_code == 200
        assert time.monotonic() - begun < 0.5
        connection.close()


def test_a_burst_is_refused_beyond_the_queue(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, runner = slow
    runner.seconds_a_call = 0.05
    body = BODY | {"parameters": {"max_new_tokens": 4}}
    with serving(completer, ServeSettings(queue_limit=4)) as client, ThreadPoolExecutor(12) as pool:

        def ask(number: int) -> httpx.Response:
            return client.post("/", json=body, headers={"User-Agent": f"editor {number}"})

        replies = list(pool.map(ask, range(12)))
        refused = [reply for reply in replies if reply.status_code == 503]
        assert len(refused) >= 6
        assert {reply.status_code for reply in replies} == {200, 503}
        assert all(reply.headers["retry-after"] == "1" for reply in refused)
        assert all(llm_ls.read(backend, refused[0].text)[1] for backend in llm_ls.BACKENDS)
        # All places are given back.
        assert client.post("/", json=body).status_code == 200


def test_one_client_leaves_half_of_the_queue_to_others(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, _ = slow
    with serving(completer, ServeSettings(queue_limit=4)) as client:
        held = [raw_post(client, "/", BODY) for _ in range(3)]
        until(lambda: waiting(client) == 2)
        refused = client.post("/", json=BODY, headers={"User-Agent": ""})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        message = "2 requests of this client wait already, which is its share; try again after 1 s"
        assert refused.json()["error"] == message
        assert refused.headers["retry-after"] == "1"
        held.append(raw_post(client, "/", BODY, agent="another"))
        until(lambda: waiting(client) == 3)
        for connection in held:
            connection.close()


def test_when_to_try_again_is_estimated_from_what_turns_take(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, runner = slow
    runner.seconds_a_call = 0.4
    with serving(completer, ServeSettings(queue_limit=1)) as client:
        client.post("/", json=BODY | {"parameters": {"max_new_tokens": 4}})
        held = [raw_post(client, "/", BODY) for _ in range(2)]
        until(lambda: waiting(client) == 1)
        assert client.post("/", json=BODY).headers["retry-after"] == "2"
        for connection in held:
            connection.close()


def test_a_full_queue_refuses_a_stream_before_it_begins(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, _ = slow
    with serving(completer, ServeSettings(queue_limit=1)) as client:
        held = [raw_post(client, "/", BODY) for _ in range(2)]
        until(lambda: waiting(client) == 1)
        assert client.post("/v1/completions", json={"prompt": "a", "stream": True}).status_code == 503
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:1"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_names_and_pages_are_kept_out(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    for reply in (client.post("/", json=BODY, headers=headers), client.get("/health", headers=headers)):
        assert reply.status_code == status
        assert "access-control-allow-origin" not in reply.headers
        if status == 403:
            assert all(llm_ls.read(backend, reply.text)[1] for backend in llm_ls.backends_of(reply.url.path))
            assert "with --host and --api-key" in reply.json()["error"]


def test_a_page_gets_no_leave_to_ask(client: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    reply = client.options("/", headers=headers)
    assert reply.status_code in (403, 405)
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_a_key_is_asked_for(bundle: Bundle) -> None:
    completer = completer_for(bundle, saying(bundle, "ok"))[0]
    with serving(completer, ServeSettings(api_key="secret")) as client:
        for header in ("", "Bearer", "Bearer wrong", "secret", "Bearer sécret", "Basic secret"):
            reply = client.post("/", json=BODY, headers={"Authorization": header.encode("latin-1")})
            assert reply.status_code == 401
            assert reply.json()["error"]
        assert client.post("/", json=BODY, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == 200


def test_a_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    reply = client.post("/", content=b'{"inputs": "' + b"a" * (bodies.MOST_BYTES + 1) + b'"}')
    assert reply.status_code == 413
    assert reply.json()["error"]


def test_a_body_without_a_length_is_refused_while_it_is_read(client: httpx.Client) -> None:
    parts = (b" " * (1 << 16) for _ in range(500))
    assert client.post("/", content=parts).status_code == 413
    assert client.get("/health").status_code == 200


def test_a_body_that_does_not_come_is_given_up(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        connection.settimeout(5)
        reply = b"".join(iter(lambda: connection.recv(4096), b""))  # up to the end: the server hangs up
    assert b" 408 " in reply
    assert b"error" in reply


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"inputs":' * 50_000, b'{"inputs": NaNa}'],
)
def test_bodies_that_are_no_object_are_named(client: httpx.Client, content: bytes) -> None:
    for path in ("/", "/generate", "/v1/completions"):
        reply = client.post(path, content=content)
        assert reply.status_code == 422
        assert all(llm_ls.read(backend, reply.text)[1] for backend in llm_ls.backends_of(reply.url.path))


def test_a_server_that_stops_finishes_what_it_has_begun(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, runner = slow
    with serving(completer) as client:
        connection = raw_post(client, "/", BODY | {"parameters": {"max_new_tokens": 20}})
        until(lambda: len(runner.calls) > 2)
    with connection:
        connection.settimeout(5)
        assert b"generated_text" in b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_failing_model_is_an_error_without_its_inside(slow: tuple[Completer, ScriptedRunner]) -> None:
    completer, runner = slow

    def fails(held: object, vocab_size: int) -> Any:
        raise RuntimeError("at /home/user/secret.py")

    runner.answer = fails
    with serving(completer) as client:
        for path, body in (("/", BODY), ("/v1/completions", {"prompt": "a"})):
            reply = client.post(path, json=body)
            assert reply.status_code == 500
            assert "secret" not in reply.text
            assert all(llm_ls.read(backend, reply.text)[1] for backend in llm_ls.backends_of(reply.url.path))
        stream = client.post("/v1/completions", json={"prompt": "a", "stream": True})
        assert "secret" not in stream.text
        assert "[DONE]" not in stream.text
