"""`fimble editor`, from the command line to the editor's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.serve.conftest import train_tokenizer, write_bundle
from tests.toolchain.conftest import Fimble, fimble
from toolchain.contracts.editors.catalogue import EDITORS

__all__ = ["fimble"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", train_tokenizer())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for variable in ("XDG_CONFIG_HOME", "NVIM_APPNAME", "CONTINUE_GLOBAL_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    return home


@pytest.mark.parametrize("name", EDITORS)
def test_settings_are_printed_and_nothing_is_written(name: str, fimble: Fimble, folder: Path, home: Path) -> None:
    done = fimble("editor", name, folder)
    assert done.code == 0, done.err
    assert "http://127.0.0.1:8000" in done.out
    assert f"For {EDITORS[name].title}, in {EDITORS[name].where}:" in done.out
    assert EDITORS[name].key in done.out
    report = fimble("editor", name, folder, "--json").report
    assert report["text"].rstrip("\n") in done.out
    assert report["written"] == []
    assert list(home.iterdir()) == []


def test_settings_name_the_bundles_own_tokenizer_and_tokens(fimble: Fimble, folder: Path, tmp_path: Path) -> None:
    settings = fimble("editor", "vscode", folder, "--json").report["settings"]
    assert settings["llm.tokenizer"] == {"path": str(folder / "params" / "tokenizer.json")}
    assert settings["llm.contextWindow"] == 196
    # Named through the workspace they outlive the bundle.
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "current").symlink_to(folder)
    settings = fimble("editor", "vscode", "work", "--json").report["settings"]
    assert settings["llm.tokenizer"] == {"path": str(workspace / "current" / "params" / "tokenizer.json")}


def test_a_checkpoint_that_an_upstream_serves_has_settings_too(fimble: Fimble, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    train_tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "model" / "config.json").write_text('{"n_positions": 128}')
    settings = fimble("editor", "vscode", "model", "--json").report["settings"]
    assert settings["llm.contextWindow"] == 68
    assert settings["llm.tokenizer"] == {"path": str(tmp_path / "model" / "tokenizer.json")}


def test_writing_says_what_it_did_and_where(fimble: Fimble, folder: Path, home: Path) -> None:
    for name in ("Code", "VSCodium"):
        (home / ".config" / name / "User").mkdir(parents=True)
    file = home / ".config" / "Code" / "User" / "settings.json"
    file.write_text('{\n  // mine\n  "a": 1\n}\n')
    report = fimble("editor", "vscode", folder, "--write", "--json").report
    assert [(done["file"], done["changed"]) for done in report["written"]] == [
        (str(file), True),
        (str(home / ".config" / "VSCodium" / "User" / "settings.json"), True),
    ]
    assert Path(report["written"][0]["backup"]).read_text() == '{\n  // mine\n  "a": 1\n}\n'
    assert report["written"][1]["backup"] is None
    text = file.read_text()
    assert '  // mine\n  "a": 1,\n  "llm.backend": "tgi",\n' in text
    again = fimble("editor", "vscode", folder, "--write")
    assert again.out.count("is so already") == 2
    assert file.read_text() == text


def test_scripts_come_with_the_line_that_loads_them(fimble: Fimble, folder: Path, home: Path) -> None:
    (home / ".config" / "nvim").mkdir(parents=True)
    done = fimble("editor", "neovim", folder, "--write")
    file = home / ".config" / "nvim" / "fimble.lua"
    assert f'dofile("{file}")' in done.out
    assert f"{file}: written" in done.out
    assert file.read_text().startswith('require("llm").setup({\n')
    done = fimble("editor", "llama.vim", folder, "--write")
    assert f"execute 'source' fnameescape('{file.with_suffix('.vim')}')" in done.out


def test_what_cannot_be_written_is_said(fimble: Fimble, folder: Path, home: Path) -> None:
    done = fimble("editor", "jetbrains", folder, "--write")
    assert done.code == 0
    assert "Nothing was written" in done.out
    fimble("editor", "zed", folder, "--write").refused("Zed has no settings here", ".config/zed", "--file")
    named = fimble("editor", "zed", folder, "--write", "--file", "portable/settings.json", "--json").report
    assert json.loads(Path(named["written"][0]["file"]).read_text())["edit_predictions"]
    Path("portable/settings.json").write_text('{"a": }')
    done = fimble("editor", "zed", folder, "--write", "--file", "portable/settings.json")
    done.refused("line 1, column 7", "Mend it")
    assert Path("portable/settings.json").read_text() == '{"a": }'


def test_the_address_is_the_servers(fimble: Fimble, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "fimble.toml"
    file.write_text('[serve]\nhost = "0.0.0.0"\nport = 9000\napi-key = "s3cret"\n')
    done = fimble("editor", "zed", folder)
    assert "http://127.0.0.1:9000/v1/completions" in done.out
    assert "s3cret" not in done.out
    assert "http://big:1/x/v1/completions" in fimble("editor", "zed", folder, "--url", "http://big:1/x/").out
    fimble("editor", "zed", folder, "--url", "localhost:8000").refused("--url cannot be 'localhost:8000'")
    file.write_text("[serve]\nport = 0\n")
    fimble("editor", "zed", folder).refused("any free port", "--url")


def test_a_key_is_shown_where_it_was_given_and_never_elsewhere(fimble: Fimble, folder: Path) -> None:
    assert "s3cret" in fimble("editor", "tabby", folder, "--api-key", "s3cret").out
    done = fimble("editor", "zed", folder, "--api-key", "s3cret")
    assert "s3cret" not in done.out
    assert "The API key is not part of these settings: set ZED_OPEN_AI" in done.out


def test_an_editor_that_is_not_known(fimble: Fimble, folder: Path) -> None:
    fimble("editor", "vs-code", folder).refused("there are no settings for 'vs-code'", "Did you mean 'vscode'?")
    fimble("editor", "emacs", folder).refused("Known: vscode, neovim")
    fimble("editor", "zed", "nothing-here").refused("nothing-here")
