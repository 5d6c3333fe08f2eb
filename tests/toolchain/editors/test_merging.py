"""Settings merged into files that people keep by hand."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from toolchain.contracts import fim
from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.forms import nested
from toolchain.contracts.editors.served import Served
from toolchain.editors.broken import Broken
from toolchain.editors.merging import merge

TOKENIZER = Path("/t/tokenizer.json")
FORMS = {"zed": "json", "vscode": "json", "llama.vscode": "json", "continue": "yaml", "tabby": "toml"}
SETTINGS = """\
// What I like
{
\t"editor.fontSize": 14, // large
\t"llm.url": "http://elsewhere", /* old */
\t"[python]": { "editor.tabSize": 4, },
\t"llm.tokenizer": { "repository": "bigcode/starcoder" },
}
"""
CONTINUE = """\
# My assistant
name: Mine
version: 0.0.1
schema: v1

models:
  - name: Chat   # for talking
    provider: "ollama"
    model: 'qwen3:8b'
    roles: [chat, edit]
rules:
  - Be brief.
"""
TABBY = """\
## Server
[server]
endpoint = "http://old:8080" # http or https URL

[server.requestHeaders]
Header1 = "Value1"

## Logs
[logs]
level = 'silent'
"""


def load(form: str, text: str) -> Any:
    match form:
        case "yaml":
            return YAML(typ="safe").load(text)
        case "toml":
            return tomllib.loads(text)
        case _:
            return json.loads(text)


@pytest.mark.parametrize("name", FORMS)
def test_a_file_that_is_not_there_becomes_the_settings_alone(name: str, served: Served) -> None:
    made = EDITORS[name].make(served)
    assert not isinstance(made, str)
    text = merge(FORMS[name], "", made)
    assert load(FORMS[name], text) == nested(made)
    assert merge(FORMS[name], text, made) == text


def test_vs_codes_comments_and_other_settings_stay(served: Served) -> None:
    made = EDITORS["vscode"].make(served)
    assert not isinstance(made, str)
    after = merge("json", SETTINGS, made)
    assert after.startswith('// What I like\n{\n\t"editor.fontSize": 14, // large\n')
    assert '\t"llm.url": "http://127.0.0.1:8000/generate", /* old */\n' in after
    assert '\t"[python]": { "editor.tabSize": 4, },\n' in after
    assert "bigcode/starcoder" not in after
    assert merge("json", after, made) == after
    assert merge("json", "\ufeff" + SETTINGS, made) == "\ufeff" + after


def test_continues_other_models_stay_and_ours_is_one(served: Served) -> None:
    made = EDITORS["continue"].make(served)
    assert not isinstance(made, str)
    after = merge("yaml", CONTINUE, made)
    assert [line for line in after.splitlines() if line in CONTINUE.splitlines()] == CONTINUE.splitlines()
    told = load("yaml", after)
    assert (told["name"], told["version"]) == ("Mine", "0.0.1")
    assert [model["name"] for model in told["models"]] == ["Chat", "Fimble"]
    assert merge("yaml", after, made) == after
    moved = EDITORS["continue"].make(replace(served, url="http://127.0.0.1:9000"))
    assert not isinstance(moved, str)
    own = after.replace("    provider: llama.cpp\n", "    provider: llama.cpp\n    env: {x: 1}\n")
    again = load("yaml", merge("yaml", own, moved))["models"]
    assert [model["name"] for model in again] == ["Chat", "Fimble"]
    assert again[1]["apiBase"] == "http://127.0.0.1:9000/"
    assert again[1]["env"] == {"x": 1}


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nversion: 1.0.0\nschema: v1\nmodels: []\n",
        "name: a\nversion: 1.0.0\nschema: v1\nmodels:\n",
        "name: a\nversion: 1.0.0\nschema: v1\nmodels:\n- name: X\n  provider: y\n",
        "# nothing but this\n",
    ],
)
def test_continues_list_of_models_may_be_empty_or_flush(text: str, served: Served) -> None:
    made = EDITORS["continue"].make(served)
    assert not isinstance(made, str)
    after = merge("yaml", text, made)
    assert load("yaml", after)["models"][-1] == nested(made)["models"][0]
    assert merge("yaml", after, made) == after
    assert not [line for line in text.splitlines() if line not in after.splitlines() and "models" not in line]


def test_tabbys_comments_and_headers_stay(served: Served) -> None:
    made = EDITORS["tabby"].make(replace(served, key="s3cret"))
    assert not isinstance(made, str)
    after = merge("toml", TABBY, made)
    told = tomllib.loads(after)
    assert told["server"]["requestHeaders"] == {"Header1": "Value1"}
    assert (told["server"]["endpoint"], told["server"]["token"]) == ("http://127.0.0.1:8000", "s3cret")
    assert told["anonymousUsageTracking"] == {"disable": True}
    assert [line for line in TABBY.splitlines() if line not in after.splitlines()] == [TABBY.splitlines()[2]]
    assert 'endpoint = "http://127.0.0.1:8000" # http or https URL' in after
    assert merge("toml", after, made) == after


PLAIN = st.dictionaries(
    st.sampled_from(["server", "logs", "x y", "completion", "name"]),
    st.integers() | st.text("ab #=\"'", max_size=5) | st.dictionaries(st.sampled_from(["a", "token"]), st.booleans()),
    max_size=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLAIN)
def test_whatever_tables_there_are_they_stay(tables: dict[str, Any]) -> None:
    served = Served("http://127.0.0.1:8000", TOKENIZER, fim.STARCODER, 256, "m")
    made = EDITORS["tabby"].make(served)
    assert not isinstance(made, str)
    text = tomlkit.dumps(tables)
    if any(not isinstance(tables.get(name, {}), dict) for name in ("server", "completion")):
        with pytest.raises(Broken):
            merge("toml", text, made)
        return
    expected = {**tables, **nested(made)}
    for name in ("server", "completion"):
        expected[name] = {**tables.get(name, {}), **nested(made)[name]}
    after = merge("toml", text, made)
    assert tomllib.loads(after) == expected
    assert merge("toml", after, made) == after


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLAIN)
def test_whatever_mapping_there_is_it_stays(mapping: dict[str, Any]) -> None:
    served = Served("http://127.0.0.1:8000", TOKENIZER, fim.STARCODER, 256, "m")
    made = EDITORS["continue"].make(served)
    assert not isinstance(made, str)
    text = "# mine\n" + json.dumps(mapping) + "\n"
    after = merge("yaml", text, made)
    assert load("yaml", after) == {**nested(made), **mapping}
    assert "# mine" in after
    assert merge("yaml", after, made) == after


@pytest.mark.parametrize(
    ("form", "text", "line", "column"),
    [
        ("yaml", "name: a\nmodels: [\n", 3, 1),
        ("yaml", "name: a\nname: b\n", 2, 1),
        ("yaml", "name: a\nmodels: five\n", 2, 9),
        ("yaml", "- a\n", 1, 1),
        ("toml", '[server]\nendpoint = "x\n', 2, 14),
        ("toml", "[server\n", 1, 8),
        ("toml", "server = 1\n", 1, 1),
    ],
)
def test_what_is_broken_is_told_with_line_and_column(
    form: str, text: str, line: int, column: int, served: Served
) -> None:
    made = EDITORS["continue" if form == "yaml" else "tabby"].make(served)
    assert not isinstance(made, str)
    with pytest.raises(Broken) as refusal:
        merge(form, text, made)
    assert (refusal.value.line, refusal.value.column) == (line, column), refusal.value.problem
    assert "\n" not in refusal.value.problem
