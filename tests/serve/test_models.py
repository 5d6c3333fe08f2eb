"""Several bundles behind one address, chosen by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.bundle import Bundle
from serve.completer import Completer
from serve.http.app import Server
from serve.settings import ServeSettings
from serve.sources import name_and_folder
from tests.serve.conftest import completer_for, saying, serving
from toolchain.contracts.errors import SettingsError


def called(name: str, bundle: Bundle) -> Completer:
    """One that says its name."""
    completer, _ = completer_for(bundle, saying(bundle, name))
    return replace(completer, bundle=replace(bundle, name=name))


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(called("one", bundle), others=[called("two", bundle)]) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"prompt": "="}, lambda reply: reply["choices"][0]["text"]),
        ("/api/generate", {"prompt": "=", "stream": False}, lambda reply: reply["response"]),
        ("/completion", {"prompt": "="}, lambda reply: reply["content"]),
        ("/infill", {"input_prefix": "=", "input_suffix": ""}, lambda reply: reply["content"]),
        ("/generate", {"inputs": "="}, lambda reply: reply["generated_text"]),
    ],
)
def test_a_body_names_the_model_and_any_other_name_means_the_first(
    client: httpx.Client, path: str, body: dict[str, Any], said: Any
) -> None:
    for name, wanted in (("one", "one"), ("two", "two"), ("gpt-4o", "one"), (None, "one"), ("two:latest", "two")):
        assert said(client.post(path, json=body | {"model": name}).json()) == wanted
    assert said(client.post(path, json=body).json()) == "one"


def test_a_path_names_the_model(client: httpx.Client) -> None:
    for name, wanted in (("two", "two"), ("bigcode/starcoder", "one")):
        assert client.post(f"/models/{name}", json={"inputs": "="}).json()[0]["generated_text"] == wanted
        assert client.get(f"/v1/models/{name}").json()["id"] == wanted
    assert client.post("/api/show", json={"name": "two"}).json()["modelfile"] == "FROM two\n"


def test_all_are_listed(client: httpx.Client) -> None:
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["one", "two"]
    for path in ("/api/tags", "/api/ps"):
        assert [card["name"] for card in client.get(path).json()["models"]] == ["one", "two"]
    assert client.get("/health").json()["models"] == ["one", "two"]
    assert [model["model_id"] for model in client.get("/info").json()["models"]] == ["one", "two"]
    assert [model["name"] for model in client.get("/status").json()["models"]] == ["one", "two"]
    assert client.get("/info").json()["model_id"] == client.get("/props").json()["model_alias"] == "one"


def test_two_of_one_name_are_refused(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"two bundles are called one. Serve one by another name: .*NAME=BUNDLE"):
        Server([called("one", bundle), called("one", bundle)], ServeSettings())


def test_a_name_may_stand_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert name_and_folder("a=b") == (None, Path("a=b"))
    assert name_and_folder("small=../x=y") == ("small", Path("../x=y"))
    assert name_and_folder(".fimble") == (None, Path(".fimble"))
    with pytest.raises(SettingsError, match="'sm all' cannot be a model's name"):
        name_and_folder("sm all=x")
