"""Where the shape of a base comes from: a hub, of which only `config.json` is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from toolchain.planning import models

pytest.importorskip("huggingface_hub", reason="needs the train extra")

ROOT = Path(__file__).parents[3]
CONFIG = json.dumps(models.known()["bigcode/starcoderbase-1b"]).encode()
CONFIGS = {"/me/one": CONFIG, "/me/torn": CONFIG[:20], "/me/other": b'{"model_type": "bert"}'}


class Hub(ThreadingHTTPServer):
    """The part of a model hub that gives a file; it remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        assert isinstance(self.server, Hub)
        self.server.asked.add(self.path)
        name, _, _ = self.path.partition("/resolve/main/")
        content = CONFIGS.get(name) if self.path.endswith("/config.json") else None
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.end_headers()
        if with_body and content:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def plan(hub: Hub, base: str, home: Path) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": address}
    line = [sys.executable, "-P", "-m", "toolchain.cli", "plan", "--base", base, "--gpu", "rtx-4090", "--json"]
    return subprocess.run(line, env=environment, cwd=home, capture_output=True, text=True, check=False)


def test_of_a_hubs_model_only_the_config_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    done = plan(hub, "me/one", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 1_137_207_296 + 5_554_176
    # The client asks a question of its own besides, which is of no model.
    assert {path for path in hub.asked if "one" in path} == {"/me/one/resolve/main/config.json"}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("me/none", "config.json of me/none cannot be fetched from the model hub"),
        ("me/torn", "cannot be read"),
        ("me/other", "has the architecture 'bert', which is not supported"),
    ],
)
def test_what_a_hub_does_not_give_is_refused(hub: Hub, tmp_path: Path, base: str, message: str) -> None:
    done = plan(hub, base, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert message in done.stderr
