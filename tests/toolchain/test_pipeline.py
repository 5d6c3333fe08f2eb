"""The workspace of `up`: what may lie around it, who may work in it, and what becomes of damage in it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.tiny import Lines, write_base
from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError, MissingExtra, UserError
from toolchain.contracts.manifest import Draft, Kind, Parent
from toolchain.contracts.progress import Progress, Silent
from toolchain.contracts.stage import Plan
from toolchain.pipeline import up
from toolchain.workspace import Workspace, point_at

pytestmark = [pytest.mark.train, pytest.mark.compile]


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise Stop

    monkeypatch.setattr("train.scratch.plan_scratch", stop)


def collect_only(source: Path, root: Path) -> None:
    """`up` as far as its first training."""
    with pytest.raises(Stop):
        up([str(source)], root, {}, {}, Silent())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"base": "./nowhere"}, "neither a folder nor a hub id"),
        ({"base": "BASE", "lora_target": ["c_attn", "wte"]}, "no layer of base is called wte"),
        ({"base": "BASE", "target": ["nope"]}, "unknown target 'nope'"),
        ({"base": "WIDE"}, "the head size in config.json is 12"),
        ({"lora_target": ["nope"]}, "no layer of scratch is called nope"),
        ({"objective": "chat"}, "up collects code, and --objective chat learns from dialogues"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_before_the_first(
    tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    if flags.get("base") == "BASE":
        flags = flags | {"base": str(write_base(tmp_path / "base"))}
    if flags.get("base") == "WIDE":
        folder = write_base(tmp_path / "wide")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # Sizes that training would take, and no kernel.
        (folder / "config.json").write_text(json.dumps(config | {"n_embd": 96, "n_head": 8}), encoding="utf-8")
        flags = {"base": str(folder)}
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        up([str(tmp_path)], tmp_path / "work", {}, flags, Silent())
    assert not (tmp_path / "work" / "dataset").exists()


def test_a_port_that_is_taken_is_told_before_the_first_stage(fimble: Fimble, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("one = 1\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        fimble("up", tmp_path, "--out", "work", "--port", port).refused(f"port {port} on 127.0.0.1 is in use")
    assert not (tmp_path / "work").exists()


def test_a_library_that_a_later_stage_needs_is_asked_for_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"the library peft is not installed. Run: pip install '.*\[all\]'"):
        up([str(tmp_path)], tmp_path / "work", {}, {}, Silent())


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


def test_prune_keeps_what_two_bundles_were_made_from(fimble: Fimble, tmp_path: Path) -> None:
    root = tmp_path / "work"

    def artifact(kind: Kind, name: str, *parents: Path) -> Path:
        def write(draft: Draft, work: Path, progress: Progress) -> None:
            (draft.path / "file").write_text(name, encoding="utf-8")

        named = tuple(Parent(kind=manifest.read(p).kind, digest=manifest.read(p).digest) for p in parents)
        plan = Plan(kind, 1, named, {"name": name}, write)
        return Workspace(root, Silent(), []).run(name, lambda: plan).folder

    base = artifact("checkpoint", "base")
    roads = []
    for number in range(3):
        data = artifact("dataset", f"data {number}")
        tuned = artifact("checkpoint", f"tuned {number}", data, base)
        roads.append([data, tuned, artifact("bundle", f"bundle {number}", tuned)])
        point_at(root, roads[-1][-1])
    users = root / "dataset" / "mine"
    users.mkdir()
    (users / "file").touch()
    done = fimble("prune", root, "--json").report
    assert sorted(done["removed"]) == sorted(map(str, roads[0]))
    assert done["bytes"] == len("data 0" + "tuned 0" + "bundle 0")
    assert all(path.exists() for path in [base, users, *roads[1], *roads[2]])
    assert not any(path.exists() for path in roads[0])
    assert fimble("prune", root).out == "removed 0 folders, 0 bytes\n"
    fimble("prune", tmp_path / "nothing").refused("has no current bundle")
    assert not (tmp_path / "nothing").exists()
