"""Settings files on disk: found where editors keep them, backed up, and written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from toolchain.contracts.editors.catalogue import EDITORS, Editor
from toolchain.contracts.editors.served import Served
from toolchain.contracts.errors import SettingsError
from toolchain.editors import writing
from toolchain.editors.places import existing, settings_files
from toolchain.machine import Machine
from toolchain.replacing import Replaced


def write(editor: Editor, served: Served, file: Path) -> Replaced:
    (done,) = writing.write(editor, served, [file])
    return done


VSCODE, ZED, NEOVIM = EDITORS["vscode"], EDITORS["zed"], EDITORS["neovim"]


def test_what_was_there_is_kept_beside_it_and_a_second_time_changes_nothing(tmp_path: Path, served: Served) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(b'// mine\r\n{\r\n  "a": 1\r\n}\r\n')
    file.chmod(0o640)
    done = write(VSCODE, served, file)
    assert done.changed
    assert done.backup
    assert done.backup.read_bytes() == b'// mine\r\n{\r\n  "a": 1\r\n}\r\n'
    assert file.read_bytes().startswith(b'// mine\r\n{\r\n  "a": 1,\r\n  "llm.backend": "tgi",\r\n')
    assert b"\n" not in file.read_bytes().replace(b"\r\n", b"")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    again = write(VSCODE, served, file)
    assert (again.changed, again.backup) == (False, None)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


def test_two_changes_within_a_second_leave_two_backups(tmp_path: Path, served: Served) -> None:
    file = tmp_path / "settings.json"
    backups = [write(ZED, replace(served, model=name), file).backup for name in ("one", "two", "three")]
    assert backups[0] is None
    assert len({*backups}) == 3
    assert [json.loads(b.read_text())["edit_predictions"]["open_ai_compatible_api"]["model"] for b in backups if b] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{\n  "a": 1\n  "b": 2\n}', ["line 3, column 3", "not JSON", "a comma or } is missing", "Mend it"]),
        (b"[1, 2]", ["line 1, column 1", "an object is needed"]),
        (b'{"edit_predictions": true}', ["line 1, column 22", "'edit_predictions' is no object"]),
        (b"\xff\xfe{\x00}\x00", ["UTF-8"]),
    ],
)
def test_a_broken_file_is_refused_and_stays(content: bytes, words: list[str], tmp_path: Path, served: Served) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refusal:
        write(ZED, served, file)
    for word in [str(file), *words]:
        assert word in str(refusal.value)
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_where_one_of_several_is_broken_none_is_written(tmp_path: Path, served: Served) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    files[1].write_text("{")
    with pytest.raises(SettingsError, match=r"two\.json, line 1, column 2"):
        writing.write(ZED, served, files)
    assert [path.name for path in tmp_path.iterdir()] == ["two.json"]


def test_a_link_stays_a_link_and_a_failure_leaves_all_as_it_was(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "dotfiles" / "settings.json"
    real.parent.mkdir()
    real.write_text("{}")
    link = tmp_path / "settings.json"
    link.symlink_to(real)
    assert write(ZED, served, link).backup
    assert link.is_symlink()
    assert json.loads(real.read_text())["edit_predictions"]

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = real.read_text()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(ZED, replace(served, model="other"), link)
    assert real.read_text() == before
    assert [path.name for path in real.parent.iterdir()] == ["settings.json"]


def test_a_fresh_file_with_a_key_is_its_owners_alone(tmp_path: Path, served: Served) -> None:
    for key, mode in ((None, 0o644), ("s3cret", 0o600)):
        file = tmp_path / f"{mode}.lua"
        write(NEOVIM, replace(served, key=key), file)
        assert file.stat().st_mode & 0o777 == mode
        assert ("s3cret" in file.read_text()) == (key is not None)


HOME = Path("/home/ada")
FOUND = {
    ("vscode", "linux"): "/home/ada/.config/Code/User/settings.json",
    ("llama.vscode", "darwin"): "/home/ada/Library/Application Support/Code/User/settings.json",
    ("vscode", "win32"): "/home/ada/AppData/Roaming/Code/User/settings.json",
    ("zed", "linux"): "/home/ada/.config/zed/settings.json",
    ("zed", "darwin"): "/home/ada/.config/zed/settings.json",
    ("zed", "win32"): "/home/ada/AppData/Roaming/Zed/settings.json",
    ("continue", "linux"): "/home/ada/.continue/config.yaml",
    ("tabby", "win32"): "/home/ada/.tabby-client/agent/config.toml",
    ("neovim", "linux"): "/home/ada/.config/nvim/fimble.lua",
    ("neovim", "win32"): "/home/ada/AppData/Local/nvim/fimble.lua",
    ("llama.vim", "darwin"): "/home/ada/.vim/fimble.vim",
    ("llama.vim", "win32"): "/home/ada/vimfiles/fimble.vim",
}


@pytest.mark.parametrize(("editor", "system"), FOUND)
def test_where_settings_are(editor: str, system: str) -> None:
    assert settings_files(editor, Machine(system, HOME, {}))[0] == Path(FOUND[editor, system])


def test_the_environment_moves_them() -> None:
    machine = Machine("linux", HOME, {"XDG_CONFIG_HOME": "/etc/ada", "NVIM_APPNAME": "vi2"})
    assert settings_files("vscode", machine)[0] == Path("/etc/ada/Code/User/settings.json")
    assert settings_files("neovim", machine) == [Path("/etc/ada/vi2/fimble.lua")]
    assert settings_files("zed", Machine("win32", HOME, {"APPDATA": "/roam"})) == [Path("/roam/Zed/settings.json")]
    assert settings_files("jetbrains", machine) == []


def test_only_editors_that_are_there_are_written_to(tmp_path: Path) -> None:
    machine = Machine("linux", tmp_path, {})
    for folder in ("VSCodium/User", "Code - Insiders", "zed"):
        (tmp_path / ".config" / folder).mkdir(parents=True)
    found = existing(settings_files("vscode", machine), "vscode")
    assert [file.relative_to(tmp_path / ".config").parts[0] for file in found] == ["Code - Insiders", "VSCodium"]
    assert existing(settings_files("zed", machine), "zed") == [tmp_path / ".config/zed/settings.json"]
    assert existing(settings_files("neovim", machine), "neovim") == []
