"""What goes wrong at other servers of models, and what a user of this one is told.

Besides these: Host and Origin headers, keys, bodies that do not come, bursts and clients that leave are in
`test_limits.py`; the port, SIGTERM and the drain in `test_server.py`; a bundle that is replaced in `test_reloading.py`;
hostile templates in `test_chat_renderer.py`; no network in `tests/toolchain/test_airplane.py`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.requests import MOST_TOKENS
from tests.serve.conftest import CONTEXT, completer_for, serving, until
from tests.serve.scripted import ScriptedRunner, repeats
from tests.serve.test_metrics import counted

COUNT = "a whole number of 1 or more is needed"
ALONE = "one completion at a time is computed; leave it out or give 1"
STOPS = "at most 32 stop strings of 256 characters are taken"


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[tuple[httpx.Client, ScriptedRunner]]:
    """A model that never ends by itself."""
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    with serving(completer) as client:
        yield client, runner


@pytest.fixture
def client(served: tuple[httpx.Client, ScriptedRunner]) -> httpx.Client:
    return served[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('"max_tokens": 0', f"max_tokens: {COUNT}"),
        ('"max_tokens": NaN', f"max_tokens: {COUNT}"),
        ('"max_tokens": -5', f"max_tokens: {COUNT}"),
        ('"max_tokens": "9"', f"max_tokens: {COUNT}"),
        ('"n": 16384', f"n: {ALONE}"),
        ('"best_of": 1e9', f"best_of: {ALONE}"),
        ('"temperature": NaN', "temperature: a number is needed"),
        ('"temperature": 1e999', "temperature: inf is not between 0 and 100"),
        (f'"stop": {json.dumps([str(n) for n in range(300)])}', f"stop: {STOPS}"),
        (f'"stop": "{"a" * 10_000}"', f"stop: {STOPS}"),
        (f'"user": {"[" * 100_000}{"]" * 100_000}', "body: JSON that is nested less deeply is needed"),
        (f'"user": {"9" * 100_000}', "body: JSON in UTF-8 with numbers that a program reads is needed"),
    ],
)
def test_what_is_refused_by_name(client: httpx.Client, body: str, message: str) -> None:
    for extra in ("", ', "stream": true'):
        reply = client.post("/v1/completions", content=f'{{"prompt": "a", {body}{extra}}}')
        assert reply.status_code == 422
        assert reply.json()["error"]["message"] == message


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "a", "max_tokens": -1}, 64),
        ({"prompt": "a", "max_tokens": 1e9}, CONTEXT // 2),
        ({"prompt": "", "max_tokens": 3}, 3),
        ({"prompt": "def f(" * 100_000, "suffix": ")\n" * 100_000, "max_tokens": 3}, 3),
        ({"prompt": "a\ud800", "suffix": "\udfffb", "max_tokens": 3}, 3),
        ({"prompt": "a\x00b\ufeff\u202e", "max_tokens": 3}, 3),
        ({"prompt": "a", "max_tokens": 3, "user": [[[[[[[[[[]]]]]]]]]], "stop": [str(n) for n in range(32)]}, 3),
    ],
)
def test_what_is_answered_all_the_same(client: httpx.Client, body: dict[str, Any], tokens: int) -> None:
    reply = client.post("/v1/completions", content=json.dumps(body))
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    assert usage["completion_tokens"] == tokens <= MOST_TOKENS
    assert usage["total_tokens"] <= CONTEXT


def test_a_body_of_100_mb_is_refused_and_not_kept(client: httpx.Client) -> None:
    before = counted(client)["process_resident_memory_bytes"]
    part, count = b"a" * (1 << 20), 100
    head = {"Content-Length": str(count * len(part))}
    reply = client.post("/v1/completions", content=(part for _ in range(count)), headers=head)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "validation")
    assert counted(client)["process_resident_memory_bytes"] - before < 32 << 20


def test_clients_that_send_half_a_request_hold_up_nobody(client: httpx.Client) -> None:
    url = client.base_url
    held = [socket.create_connection((url.host, url.port)) for _ in range(100)]
    for number, connection in enumerate(held):
        head = "POST / HTTP/1.1\r\nHost: localhost\r\n" + ("Content-Length: 50\r\n\r\n{" if number % 2 else "")
        connection.sendall(head.encode())
    assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3}).status_code == 200
    found = counted(client)
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0
    for connection in held:
        connection.close()


def test_a_client_that_does_not_read_its_stream_holds_up_nobody(served: tuple[httpx.Client, ScriptedRunner]) -> None:
    client, _ = served
    url, body = client.base_url, json.dumps({"prompt": "a", "max_tokens": 128, "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect((url.host, url.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        before = counted(client)["request_success_total/length"]
        connection.sendall(head.encode() + body)
        until(lambda: counted(client)["request_success_total/length"] == before + 1)
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3}).status_code == 200
