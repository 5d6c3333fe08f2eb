import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Draft, Parent
from toolchain.contracts.progress import Progress, Silent
from toolchain.contracts.stage import Plan, execute, is_current


def plan(text: str = "hello", recipe: int = 1, fail: bool = False) -> Plan:
    def write(draft: Draft, work: Path, progress: Progress) -> None:
        (draft.path / "file.txt").write_text(text, encoding="utf-8")
        if fail:
            raise RuntimeError("power cut")
        draft.facts["length"] = len(text)

    parents = (Parent(kind="dataset", digest="1" * 64),)
    return Plan(kind="adapter", recipe=recipe, parents=parents, settings={"text": text}, write=write)


def test_written_once_and_then_current(tmp_path: Path) -> None:
    out = tmp_path / "a"
    made = execute(plan(), out, Silent())
    assert manifest.verify(out) == []
    assert made.facts == {"length": 5}
    assert is_current(plan(), out)
    assert execute(plan(fail=True), out, Silent()) == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_an_interrupted_stage_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        execute(plan(fail=True), tmp_path / "a", Silent())
    assert not (tmp_path / "a").exists()
    assert execute(plan(), tmp_path / "a", Silent()).facts == {"length": 5}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_whoever_the_umask_lets_read_may_read_every_file(tmp_path: Path, mask: int, mode: int) -> None:
    def write(draft: Draft, work: Path, progress: Progress) -> None:
        (draft.path / "data").mkdir()
        for name in ("weights", "data/shard"):
            os.close(os.open(draft.path / name, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does

    before = os.umask(mask)
    try:
        execute(Plan(kind="adapter", recipe=1, parents=(), settings={}, write=write), tmp_path / "a", Silent())
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}


def test_a_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="already exists"):
        execute(plan(), tmp_path / "a", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_another_recipe_or_other_settings_are_not_current(tmp_path: Path) -> None:
    execute(plan(), tmp_path / "a", Silent())
    assert not is_current(plan(recipe=2), tmp_path / "a")
    with pytest.raises(ArtifactError, match="already holds a finished adapter"):
        execute(plan("other"), tmp_path / "a", Silent())
    assert manifest.read(tmp_path / "a").facts == {"length": 5}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("hell", encoding="utf-8")])
def test_a_damaged_artifact_is_not_current_and_the_next_step_works(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    out = tmp_path / "a"
    execute(plan(), out, Silent())
    damage(out / "file.txt")
    with pytest.raises(ArtifactError, match=r"a is damaged: file\.txt .*\. Remove that folder, and run"):
        execute(plan(), out, Silent())
    shutil.rmtree(out)
    assert execute(plan(), out, Silent()).facts == {"length": 5}


def test_what_the_user_has_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("mine.txt", "manifest.json"):
        (tmp_path / "notes" / name).write_text('{"name": "mine"}', encoding="utf-8")
        with pytest.raises(ArtifactError, match=r"notes already exists\. Choose another --out"):
            execute(plan(), tmp_path / "notes", Silent())


def test_a_folder_of_another_kind_is_named_as_what_it_is(tmp_path: Path) -> None:
    execute(plan(), tmp_path / "a", Silent())
    with pytest.raises(ArtifactError, match=r"a is an adapter, not a dataset\. Name a dataset folder"):
        manifest.read(tmp_path / "a", "dataset")
    with pytest.raises(ArtifactError, match=r"is not an adapter: .* wrote as an adapter"):
        manifest.read(tmp_path, "adapter")
    (tmp_path / "manifest.json").write_text('{"name": "a project of the user"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"is damaged or not fimble's .*\. Name a folder that fimble wrote"):
        manifest.read(tmp_path, "adapter")


def test_the_digest_leaves_out_time_and_recipe_but_not_content(tmp_path: Path) -> None:
    first, second = execute(plan(), tmp_path / "a", Silent()), execute(plan(), tmp_path / "b", Silent())
    assert first.digest == second.digest
    assert execute(plan("other"), tmp_path / "c", Silent()).digest != first.digest
    # Another recipe that writes the same has another key, and makes nothing stale that was made from it.
    again = execute(plan(recipe=2), tmp_path / "d", Silent())
    assert (again.key != first.key, again.digest) == (True, first.digest)


def test_verify_names_what_changed(tmp_path: Path) -> None:
    execute(plan(), tmp_path / "a", Silent())
    (tmp_path / "a" / "file.txt").write_text("hellO", encoding="utf-8")
    (tmp_path / "a" / "new.txt").write_text("", encoding="utf-8")
    assert manifest.verify(tmp_path / "a") == [
        "file.txt: changed since it was written",
        "new.txt: not part of the artifact",
    ]


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    arguments = {"kind": "adapter", "recipe": 1, "parents": [], "settings": {}}
    with manifest.writing(tmp_path / "a", **arguments):  # noqa: SIM117  # the second fails inside the first, which then ends well
        with (
            pytest.raises(ArtifactError, match="another fimble process"),
            manifest.writing(tmp_path / "a", **arguments),
        ):
            pass
