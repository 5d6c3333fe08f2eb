"""Tabby's own agent against the server: by its lines of JSON, and as a language server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.settings import ServeSettings
from tests.serve.asking import KEY, PREFIX, REPLY, SUFFIX
from tests.serve.conftest import completer_for, saying, serving, until
from tests.serve.programs import MODULES, Program, needs_node, node, running, started
from tests.serve.test_limits import without_room

pytestmark = needs_node

AGENT = MODULES / "tabby-agent" / "dist" / "cli.js"
ASKED = {"filepath": "add.py", "language": "python", "text": PREFIX + SUFFIX, "position": len(PREFIX), "manually": True}
READY = {"event": "statusChanged", "status": "ready"}


@pytest.fixture(scope="module")
def http(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, saying(bundle, REPLY))[0], ServeSettings(api_key=KEY)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def address(http: httpx.Client) -> str:
    return str(http.base_url).rstrip("/")


def at(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "USERPROFILE": str(home)}


@contextmanager
def agent(http: httpx.Client, home: Path, key: str = KEY) -> Iterator[Program]:
    server = {"endpoint": address(http), "token": key}
    with running([node(), str(AGENT)], at(home)) as program:
        assert program.ask("initialize", {"config": {"server": server, "anonymousUsageTracking": {"disable": True}}})
        yield program


def test_it_connects_and_takes_the_servers_settings(http: httpx.Client, tmp_path: Path) -> None:
    kept = tmp_path / ".tabby-client" / "agent" / "data.json"
    with agent(http, tmp_path) as tabby:
        assert tabby.ask("getStatus") == "ready"
        assert READY in tabby.events
        assert tabby.ask("getServerHealthState")["model"] == "tiny"
        until(lambda: kept.exists() and "serverConfig" in kept.read_text())
    settings = json.loads(kept.read_text())["serverConfig"][address(http)]
    assert settings == {"anonymousUsageTracking": {"disable": True}}


def test_a_completion_and_what_was_done_with_it(http: httpx.Client, tmp_path: Path) -> None:
    with agent(http, tmp_path) as tabby:
        reply = tabby.ask("provideCompletions", ASKED)
        (choice,) = reply["choices"]
        assert (choice["text"], choice["replaceRange"]) == (REPLY, {"start": len(PREFIX), "end": len(PREFIX)})
        event = {"completion_id": reply["id"], "choice_index": choice["index"], "view_id": "view-1"}
        assert tabby.ask("postEvent", event | {"type": "view"})
        assert tabby.ask("postEvent", event | {"type": "select", "select_kind": "line", "elapsed": 300})
        assert tabby.ask("postEvent", event | {"type": "dismiss"})
        assert not tabby.ask("postEvent", event | {"type": "other"})
    totals = http.get("/status").json()["totals"]
    assert [totals[f"completion_events/{kind}"] for kind in ("view", "select", "dismiss")] == [1, 1, 1]


@pytest.mark.parametrize("key", ["wrong", ""])
def test_the_key(http: httpx.Client, tmp_path: Path, key: str) -> None:
    with agent(http, tmp_path, key) as tabby:
        assert tabby.ask("getStatus") == "unauthorized"
        assert tabby.ask("provideCompletions", ASKED) is None


def test_no_room_is_no_lost_connection(bundle: Bundle, tmp_path: Path) -> None:
    with without_room(bundle) as http, agent(http, tmp_path) as tabby:
        assert tabby.ask("provideCompletions", ASKED) is None
        assert (tabby.ask("getStatus"), tabby.ask("getIssues")) == ("ready", [])


class LanguageServer:
    """The other end of a language server: messages with a length before each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._asked = process, 0

    def tell(self, method: str, params: Any, **fields: Any) -> None:
        assert self._process.stdin is not None
        text = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **fields})
        self._process.stdin.write(f"Content-Length: {len(text)}\r\n\r\n{text}")
        self._process.stdin.flush()

    def ask(self, method: str, params: Any) -> Any:
        self._asked += 1
        self.tell(method, params, id=self._asked)
        while (said := self._next()).get("id") != self._asked:
            pass
        return said["result"]

    def _next(self) -> Any:
        assert self._process.stdout is not None
        length = int(self._process.stdout.readline().removeprefix("Content-Length: "))
        self._process.stdout.readline()
        return json.loads(self._process.stdout.read(length))


def test_as_a_language_server(http: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / ".tabby-client" / "agent"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'[server]\nendpoint = "{address(http)}"\ntoken = "{KEY}"\n[anonymousUsageTracking]\ndisable = true\n'
    )
    uri = "file:///add.py"
    with started([node(), str(AGENT), "--lsp", "--stdio"], at(tmp_path)) as process:
        server = LanguageServer(process)
        client = {"processId": None, "rootUri": None, "clientInfo": {"name": "test"}, "capabilities": {}}
        assert "completionProvider" in server.ask("initialize", client)["capabilities"]
        server.tell("initialized", {})
        document = {"uri": uri, "languageId": "python", "version": 1, "text": PREFIX + SUFFIX}
        server.tell("textDocument/didOpen", {"textDocument": document})
        asked = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 4}}
        (item,) = server.ask("textDocument/completion", asked)["items"]
        server.ask("shutdown", None)
    assert item["textEdit"]["newText"] == REPLY
