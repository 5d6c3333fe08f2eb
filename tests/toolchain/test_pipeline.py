"""The workspace of `up`: what may lie around it, who may work in it, and what becomes of damage in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.tiny import Lines
from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, UserError
from toolchain.contracts.manifest import Draft
from toolchain.contracts.progress import Progress, Silent
from toolchain.contracts.stage import Plan
from toolchain.pipeline import Workspace, up

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


def unlink_shard(folder: Path) -> None:
    (folder / "shard.bin").unlink()


def cut_shard(folder: Path) -> None:
    (folder / "shard.bin").write_bytes(b"12")


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{", encoding="utf-8")


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def put_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("", encoding="utf-8")


@pytest.mark.parametrize("damage", [unlink_shard, cut_shard, break_manifest, lose_manifest, put_a_file])
def test_a_damaged_artifact_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    def write(draft: Draft, work: Path, progress: Progress) -> None:
        (draft.path / "shard.bin").write_bytes(b"1234")

    plan = Plan("dataset", 1, (), {}, write)
    folder = Workspace(tmp_path, Silent(), []).run("collect", lambda: plan).folder
    damage(folder)
    listener = Lines()
    step = Workspace(tmp_path, listener, []).run("collect", lambda: plan)
    assert step.made
    assert manifest.verify(folder) == []
    assert "is damaged" in listener.lines[0]
    assert listener.lines[0].endswith("making it again")
    assert not Workspace(tmp_path, Silent(), []).run("collect", lambda: plan).made


def test_a_workspace_whose_bundle_is_gone_asks_for_up(fimble: Fimble, tmp_path: Path) -> None:
    with manifest.writing(tmp_path / "work" / "bundle" / "1", kind="bundle", recipe=1, parents=(), settings={}):
        pass
    (tmp_path / "work" / "current").symlink_to("bundle/1")
    assert fimble("inspect", "work", "--json").report["kind"] == "bundle"
    shutil.rmtree(tmp_path / "work" / "bundle")
    for command in (["inspect"], ["serve"], ["complete", "--prefix", "a"]):
        fimble(*command, "work").refused("the workspace work has no current bundle. Run fimble up first")
