"""The server as a process: its address, its end, and what stops it from starting."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serve.bundle import Bundle
from serve.http.port import address
from serve.server import check, run
from serve.settings import ServeSettings
from serve.sources import Source
from tests.serve.conftest import until
from tests.serve.process import process
from toolchain.contracts.errors import ArtifactError, PortBusy, SettingsError
from toolchain.contracts.progress import Silent

BODY = {"prompt": "=", "max_tokens": 30}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_finishes_what_has_begun_and_is_no_failure(bundle: Bundle, number: signal.Signals) -> None:
    with process(bundle.folder) as (running, url), ThreadPoolExecutor(2) as pool:
        body = json.dumps(BODY | {"stream": True})
        with httpx.stream("POST", f"{url}/v1/completions", content=body, timeout=20) as reply:
            lines = filter(None, reply.iter_lines())
            first = next(lines)
            waiting = pool.submit(httpx.post, f"{url}/v1/completions", json=BODY, timeout=20)
            also = pool.submit(httpx.post, f"{url}/v1/completions", json=BODY | {"stream": True}, timeout=20)
            until(lambda: "fimble_num_requests_waiting 2.0" in httpx.get(f"{url}/metrics").text)
            running.send_signal(number)
            *pieces, last, done = [first, *lines]
        assert len(pieces) == BODY["max_tokens"]
        assert '"finish_reason":"length"' in last
        assert done == "data: [DONE]"
        for refused in (waiting.result(), also.result()):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["message"] == "the server is stopping; try again when it is up"
        out, errors = running.communicate(timeout=20)
        assert (running.returncode, out, errors) == (0, "stopped\n", "")


def test_what_takes_too_long_at_the_end_is_answered_with_what_there_is(bundle: Bundle) -> None:
    with process(bundle.folder, drain_seconds=1) as (running, url), ThreadPoolExecutor(1) as pool:
        body = BODY | {"max_tokens": 250}
        asking = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=20)
        until(lambda: "fimble_num_requests_running 1.0" in httpx.get(f"{url}/metrics").text)
        running.send_signal(signal.SIGTERM)
        assert 10 < len(asking.result().json()["choices"][0]["text"]) < 120
        assert running.wait(20) == 0


@pytest.mark.slow
def test_a_connection_may_be_idle_for_as_long_as_clients_keep_it(bundle: Bundle) -> None:
    with process(bundle.folder) as (_, url):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for pause in (6, 0):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 200 " in connection.recv(4096)
                time.sleep(pause)


def test_a_busy_port_is_told_with_who_has_it(bundle: Bundle, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=rf"port {port} on 127.0.0.1 is in use") as caught:
            run([Source(lambda: tmp_path / "no bundle")], ServeSettings(port=port), Silent())
        if sys.platform == "linux":
            assert str(caught.value).endswith(f"(process {os.getpid()}). End it, or choose another --port.")
    with process(bundle.folder) as (running, url):
        with pytest.raises(PortBusy) as caught:
            check(ServeSettings(port=int(url.rpartition(":")[2])))
        assert f"is in use by fimble, which serves tiny (process {running.pid})" in caught.value.message
        assert caught.value.next_step == f"Use it at {url}, or choose another --port."


def test_a_bundle_that_is_none_gives_the_port_back(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(ArtifactError):
            run([Source(lambda: tmp_path / "no bundle")], ServeSettings(port=port), Silent())


def test_an_address_that_is_not_this_machines(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot listen on 192\\.0\\.2\\.1:0"):
        run([Source(lambda: tmp_path)], ServeSettings(host="192.0.2.1", port=0, api_key="k"), Silent())


def test_addresses() -> None:
    assert address("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert address("::1", 8000) == "http://[::1]:8000"


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"port": -1}, "--port"),
        ({"port": 70000}, "--port"),
        ({"queue_limit": 0}, "--queue-limit"),
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": ""}, "--host"),
        ({"api_key": ""}, "--api-key"),
        ({"api_key": "sécret"}, "--api-key"),
        ({"api_key": "two words"}, "--api-key"),
    ],
)
def test_settings_check_themselves(values: dict[str, object], flag: str) -> None:
    with pytest.raises(SettingsError, match=flag) as caught:
        ServeSettings(**values)
    assert caught.value.next_step
