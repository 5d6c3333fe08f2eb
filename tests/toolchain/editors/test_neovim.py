"""What is written for Neovim and Vim, loaded by Neovim itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.served import Served
from toolchain.editors.telling import load_line
from toolchain.editors.writing import write

ODD = 'o\'brien "x" \\n ü'


def nvim(*commands: str) -> Any:
    """What Neovim writes to standard output while it carries out the commands, as JSON."""
    program = shutil.which("nvim")
    if program is None:
        pytest.skip("needs nvim")
    line = [program, "--headless", "-u", "NONE", *(word for c in commands for word in ("-c", c)), "-c", "qa!"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_llm_nvim_is_set_up_with_odd_paths_and_all(tmp_path: Path, served: Served) -> None:
    file, tokenizer = tmp_path / ODD / "fimble.lua", Path("/t") / ODD / "\ttokenizer.json"
    write(EDITORS["neovim"], replace(served, tokenizer=tokenizer, key='k"\\'), [file])
    load = load_line(EDITORS["neovim"], file)
    spy = "lua package.loaded.llm = { setup = function(options) io.write(vim.json.encode(options)) end }"
    options = nvim(spy, f"lua {load}")
    assert options["tokenizer"] == {"path": str(tokenizer)}
    assert options["api_token"] == 'k"\\'
    assert options["fim"] == {
        "enabled": True,
        "prefix": "<fim_prefix>",
        "suffix": "<fim_suffix>",
        "middle": "<fim_middle>",
    }


def test_llama_vim_keeps_what_else_is_set(tmp_path: Path, served: Served) -> None:
    file = tmp_path / ODD / "fimble.vim"
    write(EDITORS["llama.vim"], replace(served, key="it's"), [file])
    load = load_line(EDITORS["llama.vim"], file)
    own = "let g:llama_config = {'show_info': 0, 'n_predict': 9}"
    options = nvim(own, str(load), "lua io.write(vim.json.encode(vim.g.llama_config))")
    assert options["show_info"] == 0
    assert options["n_predict"] == 60
    assert options["api_key"] == "it's"
    assert options["endpoint_fim"] == "http://127.0.0.1:8000/infill"
