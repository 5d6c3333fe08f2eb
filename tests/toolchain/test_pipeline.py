"""The workspace of `up`: what may lie around it, and who may work in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, UserError
from toolchain.contracts.progress import Silent
from toolchain.pipeline import up

pytestmark = [pytest.mark.train, pytest.mark.compile]


def collect_only(source: Path, root: Path) -> None:
    """`up` as far as a base that does not exist."""
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        up([str(source)], root, {}, {"base": "./nowhere"}, Silent())


def test_a_workspace_within_a_plain_folder_is_not_collected(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n", encoding="utf-8")
    for _ in range(2):
        collect_only(tmp_path, tmp_path / "work")
    (dataset,) = (tmp_path / "work" / "dataset").glob("[!.]*")
    assert (dataset / "manifest.json").is_file()


def test_a_folder_of_the_users_is_not_marked(tmp_path: Path) -> None:
    for name in ("one.py", "two.py", ".gitignore"):
        (tmp_path / name).write_text(f"{name[:3]} = 1\n", encoding="utf-8")
    collect_only(tmp_path, tmp_path)
    assert (tmp_path / ".gitignore").read_text(encoding="utf-8") == ".gi = 1\n"
    assert not (tmp_path / "CACHEDIR.TAG").exists()


def test_two_processes_do_not_work_in_one_workspace(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    with (
        manifest.locked(root / "lock", "held"),
        pytest.raises(ArtifactError, match="another fimble process is at work in"),
    ):
        up([str(tmp_path)], root, {}, {}, Silent())
