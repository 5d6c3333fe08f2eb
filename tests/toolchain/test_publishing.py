"""Publishing to a hub: a real server in a thread speaks the part of its protocol that an upload needs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from toolchain.contracts import manifest
from toolchain.contracts.manifest import Parent

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[2]
TOKEN = "hf_secret"
WEIGHTS = bytes(range(256)) * 5000


@dataclass
class Hub:
    """Repositories by kind and name, with the files of their last commit."""

    url: str = ""
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route("/api/{kind}/{owner}/{name}/preupload/{revision}", self.preupload, methods=["POST"]),
                Route("/{path:path}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/store/{oid}", self.store, methods=["PUT"]),
                Route("/api/{kind}/{owner}/{name}/commit/{revision}", self.commit, methods=["POST"]),
                Route("/api/validate-yaml", self.valid, methods=["POST"]),
                Route("/no-hub/{status:int}/{path:path}", self.page, methods=["GET", "POST"]),
            ]
        )

    async def create(self, request: Request) -> Response:
        body = await request.json()
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "you may not write there"}, 403)
        key = f"{body.get('type') or 'model'}s/{body['organization']}/{body['name']}"
        if key in self.created:
            return JSONResponse({"error": "it exists", "url": f"{self.url}/{key}"}, 409)
        self.created[key] = body
        return JSONResponse({"url": f"{self.url}/{body['organization']}/{body['name']}"})

    async def preupload(self, request: Request) -> Response:
        files = (await request.json())["files"]
        modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] > 500_000 else "regular"} for f in files]
        return JSONResponse({"files": [mode | {"shouldIgnore": False} for mode in modes]})

    async def batch(self, request: Request) -> Response:
        objects = (await request.json())["objects"]
        actions = [{**o, "actions": {"upload": {"href": f"{self.url}/store/{o['oid']}"}}} for o in objects]
        return JSONResponse({"transfer": "basic", "objects": actions})

    async def store(self, request: Request) -> Response:
        self.stored[request.path_params["oid"]] = await request.body()
        return Response()

    async def commit(self, request: Request) -> Response:
        path = request.path_params
        files: dict[str, bytes] = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                files[entry["value"]["path"]] = self.stored[entry["value"]["oid"]]
        self.files[f"{path['kind']}/{path['owner']}/{path['name']}"] = files
        owner = f"{'datasets/' if path['kind'] == 'datasets' else ''}{path['owner']}"
        url = f"{self.url}/{owner}/{path['name']}/commit/{'1' * 40}"
        return JSONResponse({"commitUrl": url, "commitOid": "1" * 40})

    async def page(self, request: Request) -> Response:
        """What a proxy or another website replies."""
        return Response("<html>Hello</html>", request.path_params["status"], media_type="text/html")

    async def valid(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(hub.app(), log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield hub
        server.should_exit = True
        thread.join()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A dataset and an adapter made from it, as a workspace holds them."""
    root = tmp_path / ".fimble"
    facts: dict[str, Any] = {"repositories": [{"name": "shop", "commit": "ab" * 20, "license": "MIT"}]}
    with manifest.writing(root / "dataset" / "1", kind="dataset", recipe=1, parents=(), settings={}) as draft:
        (draft.path / "README.md").write_text("---\nlicense: mit\n---\nA dataset of shop.\n")
        draft.facts |= facts
    dataset = Parent(kind="dataset", digest=manifest.read(root / "dataset" / "1").digest, role="dataset")
    held_out = {"start": {"loss": 2.0, "bits_per_byte": 0.8}, "end": {"loss": 1.5, "bits_per_byte": 0.6}}
    settings = {"method": "lora", "lora_rank": 8}
    with manifest.writing(
        root / "adapter" / "2", kind="adapter", recipe=1, parents=(dataset,), settings=settings
    ) as draft:
        (draft.path / "adapter_model.safetensors").write_bytes(WEIGHTS)
        (draft.path / "adapter_config.json").write_text("{}")
        draft.facts |= {"name": "starcoderbase-1b", "family": "gpt_bigcode", "held_out": held_out, "loss_curve": [1]}
    return root


def push(hub: Hub, folder: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    line = [sys.executable, "-P", "-m", "toolchain.cli", "push", str(folder), *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def is_private(created: dict[str, Any]) -> bool:
    """What a client asked for, as older and newer ones say it."""
    return created.get("private") is True or created.get("visibility") == "private"


def test_an_adapter_with_its_card(hub: Hub, workspace: Path) -> None:
    done = push(hub, workspace / "adapter" / "2", "shop/copilot", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"] == f"{hub.url}/shop/copilot"
    assert is_private(hub.created["models/shop/copilot"])
    files = hub.files["models/shop/copilot"]
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert files["adapter_model.safetensors"] == WEIGHTS
    assert hashlib.sha256(WEIGHTS).hexdigest() in hub.stored
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: peft\n")
    for told in ("2.000 → 1.500", "shop `abababababab`, MIT", "| lora_rank | `8` |", "- gpt_bigcode"):
        assert told in card
    again = push(hub, workspace / "adapter" / "2", "shop/copilot")
    assert again.returncode == 0, again.stderr


def test_a_dataset_keeps_its_own_card(hub: Hub, workspace: Path) -> None:
    assert push(hub, workspace / "dataset" / "1", "shop/code", "--public").returncode == 0
    assert not is_private(hub.created["datasets/shop/code"])
    assert b"A dataset of shop." in hub.files["datasets/shop/code"]["README.md"]


@pytest.mark.parametrize(
    ("words", "token", "told", "code"),
    [
        (["shop/theirs"], "hf_other", "the hub refused", 1),
        (["shop/theirs"], None, "there is no token for the hub. Set HF_TOKEN", 2),
        (["theirs"], TOKEN, "owner/name", 2),
        (["shop/.theirs"], None, "'shop/.theirs' cannot be a repository's name", 2),
    ],
)
def test_what_is_refused(hub: Hub, workspace: Path, words: list[str], token: str | None, told: str, code: int) -> None:
    done = push(hub, workspace / "adapter" / "2", *words, token=token)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "models/shop/theirs" not in hub.files


def test_damage_is_not_published(hub: Hub, workspace: Path) -> None:
    (workspace / "adapter" / "2" / "adapter_model.safetensors").write_bytes(WEIGHTS[:-1])
    done = push(hub, workspace / "adapter" / "2", "shop/broken")
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert "models/shop/broken" not in hub.created


def test_a_missing_token_is_told_before_anything_is_read(hub: Hub, workspace: Path) -> None:
    (workspace / "adapter" / "2" / "adapter_model.safetensors").write_bytes(WEIGHTS[:-1])
    assert "HF_TOKEN" in push(hub, workspace / "adapter" / "2", "shop/broken", token=None).stderr


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, "answers, but not as a hub does. Check HF_ENDPOINT"),
        (404, "answers, but not as a hub does. Check HF_ENDPOINT"),
        (405, "answers, but not as a hub does. Check HF_ENDPOINT"),
        (401, "Check HF_TOKEN"),
        (429, "cannot do it now: 429. Run the command again later."),
        (503, "cannot do it now: 503. Run the command again later."),
    ],
)
def test_what_answers_in_place_of_a_hub(hub: Hub, workspace: Path, status: int, told: str) -> None:
    done = push(Hub(url=f"{hub.url}/no-hub/{status}"), workspace / "adapter" / "2", "shop/copilot")
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_hub_that_is_not_there(workspace: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        nowhere = Hub(url=f"http://127.0.0.1:{unheard.getsockname()[1]}")
        done = push(nowhere, workspace / "adapter" / "2", "shop/copilot")
    assert done.returncode == 1, done.stderr
    assert "cannot be reached" in done.stderr
