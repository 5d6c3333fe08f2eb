"""The settings of each editor, as they are printed; kept beside this file, one file an editor."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from toolchain.contracts import fim
from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.served import Served

GOLDEN = Path(__file__).parent / "golden"
SUFFIXES = {"json": "json", "yaml": "yaml", "toml": "toml", "lua": "lua", "vim": "vim", "steps": "txt"}
LLAMA_VSCODE = {"endpoint", "max_parallel_completions", "n_prefix", "n_suffix", "n_predict", "api_key"} | {
    "t_max_prompt_ms",
    "t_max_predict_ms",
}


@pytest.mark.parametrize("name", EDITORS)
def test_the_text_is_the_one_that_is_kept(name: str, served: Served) -> None:
    editor = EDITORS[name]
    golden = GOLDEN / f"{name}.{SUFFIXES[editor.form]}"
    assert editor.text(served) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EDITORS)
def test_a_key_is_there_only_where_it_was_given_and_has_a_place(name: str, served: Served) -> None:
    editor = EDITORS[name]
    keyed = editor.text(replace(served, key="s3cret"))
    assert ("s3cret" in keyed) == (name in ("neovim", "continue", "llama.vscode", "llama.vim", "tabby"))
    assert "key" not in editor.text(served).lower()
    assert "token =" not in editor.text(served)


@pytest.mark.parametrize("name", [name for name in EDITORS if name != "jetbrains"])
@pytest.mark.parametrize("spec", [fim.STARCODER, fim.QWEN_CODER])
def test_every_text_can_be_read_by_its_editor(name: str, spec: fim.FimSpec, served: Served) -> None:
    odd = Path('/home/o\'brien "x"/ü\t{}/tokenizer.json')
    text = EDITORS[name].text(replace(served, spec=spec, tokenizer=odd, model="my 'model' \\ \"1b\""))
    match EDITORS[name].form:
        case "json":
            told = json.loads(text)
            if name == "vscode":
                assert told["llm.tokenizer"]["path"] == str(odd)
                assert told["llm.fillInTheMiddle.prefix"] == spec.prefix
            elif name == "zed":
                api = told["edit_predictions"]["open_ai_compatible_api"]
                assert api["prompt_format"] == ("star_coder" if spec is fim.STARCODER else "qwen")
            else:
                assert {key.removeprefix("llama-vscode.") for key in told} <= LLAMA_VSCODE
        case "yaml":
            (model,) = YAML(typ="safe").load(text)["models"]
            around = f"{spec.prefix}{{{{{{prefix}}}}}}{spec.suffix}{{{{{{suffix}}}}}}{spec.middle}"
            assert model["promptTemplates"]["autocomplete"] == around
            assert model["model"] == "my 'model' \\ \"1b\""
        case "toml":
            assert tomllib.loads(text)["server"] == {"endpoint": "http://127.0.0.1:8000"}
        case "lua":
            quoted = re.search(r'path = "((?:[^"\\]|\\.)*)"', text)
            assert quoted
            assert re.sub(r"\\(\d{3})", lambda code: chr(int(code[1])), quoted[1]) == str(odd)


@pytest.mark.parametrize("context", [16, 64, 256, 2048, 8192, 1 << 20])
def test_the_window_leaves_room_for_the_completion(context: int, served: Served) -> None:
    small = replace(served, context_size=context)
    assert 0 < small.window < context
    assert small.window <= 1024
    assert small.lines_before >= small.lines_after >= 1
