"""A bundle that is made anew is served without a restart, and without losing a request."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tokenizers import Tokenizer

from serve.bundle import Bundle
from serve.http.app import Server
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, until, write_bundle
from tests.serve.process import process
from tests.serve.scripted import repeats
from toolchain.workspace import CURRENT, LOCK, point_at


def says(url: str, tokens: int = 1) -> str:
    reply = httpx.post(f"{url}/v1/completions", json={"prompt": "=", "max_tokens": tokens}, timeout=20)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


@pytest.fixture
def workspace(trained: Tokenizer, tmp_path: Path) -> Path:
    """With the bundles `alpha`, which is current, and `beta`."""
    for name in ("alpha", "beta"):
        write_bundle(tmp_path / "bundle" / name, trained, facts={"name": name})
    (tmp_path / LOCK).touch()
    point_at(tmp_path, tmp_path / "bundle" / "alpha")
    return tmp_path


@pytest.fixture
def served(workspace: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with process(workspace) as running:
        yield running


def test_the_current_bundle_is_served_and_nothing_is_dropped(
    workspace: Path, served: tuple[subprocess.Popen[str], str]
) -> None:
    _, url = served
    with ThreadPoolExecutor(3) as pool:
        before = [pool.submit(says, url, 100) for _ in range(3)]  # one runs, two wait
        until(lambda: "fimble_num_requests_waiting 2.0" in httpx.get(f"{url}/metrics").text)
        point_at(workspace, workspace / "bundle" / "beta")
        until(lambda: httpx.get(f"{url}/health").json()["models"] == ["beta"])
        assert says(url) == "b"
        assert not any(one.done() for one in before[1:])
        assert [one.result() for one in before] == ["a" * 100] * 3
    (workspace / CURRENT).unlink()  # as `fimble rollback` does it, on the way
    point_at(workspace, workspace / "bundle" / "alpha")
    until(lambda: says(url) == "a")


def test_a_folder_that_is_replaced_or_broken_while_it_is_served(
    workspace: Path, trained: Tokenizer, served: tuple[subprocess.Popen[str], str]
) -> None:
    running, url = served
    folder = workspace / "bundle" / "alpha"
    shutil.rmtree(folder)
    assert running.stderr is not None
    assert "there is no bundle any more where alpha came from" in running.stderr.readline()
    assert says(url) == "a"
    assert httpx.get(f"{url}/status").status_code == httpx.get(f"{url}/info").status_code == 200
    write_bundle(folder, trained, facts={"name": "alpha", "targets": {}})
    line = running.stderr.readline()
    assert "has no library for this machine" in line
    assert "the model that was loaded goes on" in line
    assert says(url) == "a"
    shutil.rmtree(folder)
    write_bundle(folder, trained, facts={"name": "anew"})
    until(lambda: httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "anew")
    assert says(url) == "a"


def test_sighup_loads_again_what_did_not_change(workspace: Path, served: tuple[subprocess.Popen[str], str]) -> None:
    running, url = served
    assert says(url) == "a"
    (workspace / "bundle" / "alpha" / "params" / "tokenizer.json").write_text("{")
    running.send_signal(signal.SIGHUP)
    assert running.stderr is not None
    assert "alpha/params/tokenizer.json" in running.stderr.readline()
    assert says(url) == "a"
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0


def test_a_terminal_that_is_closed_ends_the_server_started_in_it(workspace: Path) -> None:
    ours, its = os.openpty()
    with process(workspace, terminal=its) as (running, url):
        os.close(its)
        assert says(url) == "a"
        running.send_signal(signal.SIGHUP)
        assert says(url) == "a"
        os.close(ours)
        assert running.wait(20) == 0


def test_what_was_swapped_is_let_go(bundle: Bundle) -> None:
    old, runner = completer_for(bundle, repeats(1))
    server = Server([old], ServeSettings())
    seen = weakref.ref(runner)
    server.models.swap(0, completer_for(bundle, repeats(2))[0])
    del old, runner
    assert seen() is None
