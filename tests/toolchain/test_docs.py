"""The pages in docs/ say what the code does."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from serve.postprocessing import rules
from serve.settings import ServeSettings
from toolchain.contracts import settings
from toolchain.pipeline import UpSettings
from train.scratch_settings import FOR_SCRATCH, ScratchSettings
from train.settings import TrainSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SETTINGS, SERVER = ((DOCS / name).read_text(encoding="utf-8") for name in ("settings.md", "server.md"))


@pytest.mark.parametrize("kind", [UpSettings, ScratchSettings])
def test_keys_without_a_flag_are_documented_with_their_defaults(kind: type) -> None:
    texts = settings.documentation(kind)
    rows = [f"| `{field.name.replace('_', '-')}` | {field.default} | {texts[field.name]} |" for field in fields(kind)]
    assert "\n".join(rows) in SETTINGS


def test_the_defaults_that_the_base_scratch_changes_are_documented() -> None:
    usual = TrainSettings()
    rows = [
        f"| `{name.replace('_', '-')}` | {value} | {getattr(usual, name) or usual.peak_learning_rate} |"
        for name, value in FOR_SCRATCH.items()
    ]
    assert "\n".join(rows) in SETTINGS


def test_the_servers_paths_and_flags_are_documented() -> None:
    pytest.importorskip("starlette", reason="needs the serve extra")
    from serve.http.app import Server

    server = Server.__new__(Server)  # a route needs no model
    routes = {
        f"{min(route.methods - {'HEAD'} or route.methods)} {route.path.replace(':path', '')}"
        for route in server.app().routes
    }
    assert set(re.findall(r"^\| `((?:GET|HEAD|POST) [^`]+)`", SERVER, flags=re.MULTILINE)) == routes
    shown = dict(re.findall(r"^\| `(--[a-z-]+)` \| `?(\w[\w.]*)`? \|", SERVER, flags=re.MULTILINE))
    values = {field.name: "none" if field.default in (None, ()) else field.default for field in fields(ServeSettings)}
    defaults = {settings.flag(name): str(value).lower() for name, value in values.items()}
    assert shown == defaults


def test_the_rules_of_completion_are_documented_in_their_order() -> None:
    section = SERVER.partition("## Rules of completion")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", section, flags=re.MULTILINE)) == rules.NAMES


def test_the_servers_limits_are_documented() -> None:
    from serve import requests
    from serve.http import bodies
    from serve.protocols import messages
    from toolchain.contracts.chat import sandbox

    assert f"larger than {bodies.MOST_BYTES >> 20} MiB" in SERVER
    assert f"within {bodies.BODY_SECONDS} seconds" in SERVER
    assert f"at most {requests.MOST_TOKENS};" in SERVER
    assert f"a list of up to {requests.MOST_STOPS};" in SERVER
    assert f"may be up to\n{messages.MOST_TOKENS}, and are {messages.USUAL_TOKENS} unless given" in SERVER
    assert f"has {sandbox.MOST_MEMORY >> 20} MiB of memory, and is ended after {sandbox.MOST_SECONDS} seconds" in SERVER


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for link in re.findall(r"\]\(([^):#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_clients_that_the_tests_run_are_documented_with_their_versions() -> None:
    serve = ROOT / "tests" / "serve"
    pinned = [serve / "tgi" / "requirements.txt", ROOT / "constraints.txt"]  # ours come last
    lines = [line for path in pinned for line in path.read_text(encoding="utf-8").splitlines()]
    versions = {
        "Python": dict(line.replace("text_generation", "text-generation").split("==") for line in lines),
        "Node.js": json.loads((serve / "npm" / "package.json").read_text(encoding="utf-8"))["dependencies"],
    }
    section = SERVER.partition("\n## Clients\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` for (Python|Node\.js) \| ([\d.]+) \|", section, flags=re.MULTILINE)
    assert len(rows) == 8
    for name, language, version in rows:
        assert (name, versions[language][name]) == (name, version)
