"""What Tabby's agent sends from an editor, and what it reads of the answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.protocols import describe, tabby
from tests.serve.asking import PREFIX, REPLY, SUFFIX
from tests.serve.scripted import ScriptedRunner

BODY = {
    "language": "python",
    "segments": {
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "filepath": "add.py",
        "git_url": "https://example.com/a.git",
        "declarations": [{"filepath": "file:///x.py", "body": "x = 1\n"}],
        "relevant_snippets_from_changed_files": [{"filepath": "y.py", "body": "y = 2\n", "score": 0.5}],
        "clipboard": "z",
    },
    "temperature": 0.1,
    "seed": 3,
    "user": "me",
}
EVENT = {"type": "view", "completion_id": "cmpl-1", "choice_index": 0, "view_id": "view-1", "elapsed": 100}


def test_a_completion(served: tuple[httpx.Client, ScriptedRunner]) -> None:
    reply = served[0].post("/v1/completions", json=BODY).json()
    assert reply["id"].startswith("cmpl-")
    assert reply["choices"] == [{"index": 0, "text": REPLY}]


@pytest.mark.parametrize("suffix", [None, ""])
def test_nothing_behind_the_cursor(client: httpx.Client, suffix: str | None) -> None:
    body = {"language": "python", "segments": {"prefix": PREFIX, "suffix": suffix}}
    assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == REPLY


def test_the_request_says_it_is_an_editors_with_its_other_files(bundle: Bundle) -> None:
    wanted = tabby.complete(BODY, describe(bundle)).wanted
    assert (wanted.raw, wanted.extra) == (False, (("file:///x.py", "x = 1\n"), ("y.py", "y = 2\n")))
    assert (wanted.sampling.temperature, wanted.sampling.seed) == (0.1, 3)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_health(client: httpx.Client, method: str) -> None:
    said = client.request(method, "/v1/health").json()
    assert (said["model"], said["cuda_devices"]) == ("tiny", [])
    assert set(said["version"]) == {"build_date", "build_timestamp", "git_sha", "git_describe"}


def test_no_telemetry(client: httpx.Client) -> None:
    assert client.get("/v1beta/server_setting").json() == {"disable_client_side_telemetry": True}


def test_events_are_counted(client: httpx.Client) -> None:
    for kind in ("view", "view", "select", "dismiss"):
        assert client.post("/v1/events", json=EVENT | {"type": kind}).status_code == 200
    totals = client.get("/status").json()["totals"]
    assert [totals[f"completion_events/{kind}"] for kind in tabby.EVENTS] == [2, 1, 1]


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/completions", "segments", {"segments": None}),
    ("/v1/completions", "prefix", {"segments": {"suffix": ""}}),
    ("/v1/completions", "suffix", {"segments": {"prefix": "", "suffix": 5}}),
    ("/v1/completions", "declarations", {"segments": {"prefix": "", "declarations": ["x"]}}),
    ("/v1/completions", "body", {"segments": {"prefix": "", "declarations": [{"filepath": "x"}]}}),
    ("/v1/completions", "language", {"language": 5}),
    ("/v1/completions", "mode", {"mode": "next_edit_suggestion"}),
    ("/v1/completions", "temperature", {"temperature": "hot"}),
    ("/v1/events", "type", {"type": "other"}),
    ("/v1/events", "completion_id", {"completion_id": 5}),
    ("/v1/events", "choice_index", {"choice_index": None}),
    ("/v1/events", "choice_index", {"choice_index": -1}),
    ("/v1/events", "elapsed", {"elapsed": "long"}),
]


@pytest.mark.parametrize(("path", "name", "wrong"), WRONG)
def test_what_is_wrong_is_refused_by_name(client: httpx.Client, path: str, name: str, wrong: dict[str, Any]) -> None:
    reply = client.post(path, json=(EVENT if path == "/v1/events" else BODY) | wrong)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(f"{name}: ")
