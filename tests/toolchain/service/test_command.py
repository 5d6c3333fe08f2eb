"""`fimble service`: files put into place, and keys that no command line shows."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import train_tokenizer, write_bundle
from tests.toolchain.conftest import Fimble

HERE = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("my bundles") / "tiny", train_tokenizer())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("XDG_CONFIG_HOME", "FIMBLE_API_KEY", "FIMBLE_UPSTREAM_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("system", ["linux", "macos", "windows"])
def test_the_file_is_printed_with_what_turns_it_on(system: str, fimble: Fimble, folder: Path, home: Path) -> None:
    done = fimble("service", folder, "--system", system, "--port", 9000, "--without", "loop", "--without", "tabs")
    assert done.code == 0, done.err
    report = fimble(
        *("service", folder, "--system", system, "--port", 9000, "--without", "loop", "--without", "tabs", "--json")
    ).report
    words = ["serve", str(folder), "--port", "9000", "--without", "loop", "--without", "tabs"]
    assert report["command"][-8:] == words
    assert Path(report["command"][0]).is_absolute()
    for line in [*report["on"], report["look"], *report["off"], *report["text"].splitlines()]:
        assert line in done.out
    assert not home.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="writes a systemd unit")
def test_it_is_put_into_place_with_the_key_in_a_file_of_its_own(
    fimble: Fimble, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["service", folder, "--host", "0.0.0.0", "--write"]
    fimble(*line).refused("--host 0.0.0.0 is open to other machines")
    monkeypatch.setenv("FIMBLE_API_KEY", 's3"cret')
    done = fimble(*line)
    assert done.code == 0, done.err
    unit, keys = home / ".config/systemd/user/fimble.service", home / ".config/fimble/fimble.env"
    assert f"{unit}: written" in done.out
    assert keys.read_text() == 'FIMBLE_API_KEY="s3\\"cret"\n'
    assert keys.stat().st_mode & 0o777 == 0o600
    for text in (done.out, done.err, unit.read_text()):
        assert "cret" not in text
    again = fimble(*line)
    assert again.out.count("is so already") == 2
    assert len(list(unit.parent.iterdir())) == 1
    changed = fimble(*line, "--port", 9001, "--json").report
    assert Path(changed["written"][1]["backup"]).read_text() == unit.read_text().replace(' "--port" "9001"', "")


@pytest.mark.skipif(sys.platform != "linux", reason="runs a systemd unit's command")
def test_the_command_in_the_file_is_one_that_runs(fimble: Fimble, folder: Path) -> None:
    text = fimble("service", folder, "--json").report["text"]
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart=:"))
    words = [word.replace("%%", "%") for word in shlex.split(line.removeprefix("ExecStart=:"))]
    assert words[1:] == ["serve", str(folder)] or words[-2:] == ["serve", str(folder)]
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "FIMBLE_API_KEY" in done.stdout


def test_fimble_toml_counts_where_the_service_runs(fimble: Fimble, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fimble.toml").write_text('[serve]\nport = 9002\napi-key = "s3cret"\n')
    report = fimble("service", folder, "--system", "linux", "--json").report
    assert f"WorkingDirectory={tmp_path}\n" in report["text"]
    assert "9002" not in report["text"]  # it is read again at every start
    assert "s3cret" not in report["text"]


def test_what_cannot_be_served_is_refused(fimble: Fimble, folder: Path, tmp_path: Path) -> None:
    fimble("service", "nothing").refused("nothing")
    fimble("service", folder, "--system", "beos").refused("--system cannot be 'beos'", "linux, macos, windows")
    fimble("service", folder, "--port", 0).refused("--port cannot be 0", "stays the same")
    other = "windows" if HERE != "windows" else "linux"
    fimble("service", folder, "--system", other, "--write").refused("cannot be put into place here")
    fimble("service", folder, "--queue-limit", 0).refused("--queue-limit")


def test_serve_takes_its_key_from_the_environment(
    fimble: Fimble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str | None] = []
    monkeypatch.setattr("serve.server.run", lambda folder, settings, *rest: taken.append(settings.api_key))
    (tmp_path / "fimble.toml").write_text('[serve]\napi-key = "from-the-file"\n')
    fimble("serve", folder)
    monkeypatch.setenv("FIMBLE_API_KEY", "from-outside")
    fimble("serve", folder)
    fimble("serve", folder, "--api-key", "from-a-flag")
    monkeypatch.setenv("FIMBLE_API_KEY", "")
    fimble("serve", folder)
    assert taken == ["from-the-file", "from-outside", "from-a-flag", "from-the-file"]
