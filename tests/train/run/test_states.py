"""A saved state that is not what was written is never resumed, and one line says which file and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.tiny import LORA, Lines, fail, opened, same
from toolchain.contracts.errors import SettingsError, StageError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import Plan, execute
from train.fine_tune import plan_train
from train.run import loop

pytestmark = pytest.mark.train

STATE, BEST = "state-00000006", "best-00000004"


@pytest.fixture(scope="module")
def plan(dataset: Path, base_folder: Path) -> Plan:
    return plan_train(dataset, opened(base_folder), replace(LORA, max_steps=9))


@pytest.fixture(scope="module")
def interrupted(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that failed after step 7."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(OSError, match="the lights"):
        execute(plan, folder / "out", Lines(7, fail))
    assert {path.name for path in (folder / ".out.work").glob("*-*")} == {STATE, BEST}
    return folder / ".out.work"


def flip(path: Path) -> None:
    """One bit in the middle: in the tensors, it changes a number and nothing else."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("damage", [flip, shorten, empty, Path.unlink])
@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "record.json"])
@pytest.mark.parametrize("state", [STATE, BEST])
def test_damage_is_told_before_anything_is_trained(
    plan: Plan, interrupted: Path, tmp_path: Path, state: str, file: str, damage: Callable[[Path], object]
) -> None:
    work = shutil.copytree(interrupted, tmp_path / ".out.work")
    damage(work / state / file)
    listener = Lines()
    with pytest.raises(StageError, match="the saved state cannot be resumed") as caught:
        execute(plan, tmp_path / "out", listener)
    assert str(work / state / file) in caught.value.message
    assert caught.value.next_step == f"Remove {work} to start anew."
    assert "Training" not in listener.finished
    # The advice works.
    shutil.rmtree(work)
    with pytest.raises(OSError, match="the lights"):
        execute(plan, tmp_path / "out", Lines(1, fail))


def test_a_whole_state_before_a_damaged_one_is_resumed(plan: Plan, interrupted: Path, tmp_path: Path) -> None:
    work = shutil.copytree(interrupted, tmp_path / ".out.work")
    flip(shutil.copytree(work / STATE, work / "state-00000007") / "__0_0.distcp")
    resumed = Lines()
    execute(plan, tmp_path / "out", resumed)
    assert "Resuming after step 6 of 9" in resumed.lines
    damaged = work / "state-00000007" / "__0_0.distcp"
    assert f"a newer state is left out: {damaged} is not what was written" in resumed.lines
    execute(plan, tmp_path / "undisturbed", Silent())
    assert same(tmp_path / "out", tmp_path / "undisturbed")


def test_best_weights_that_are_lost_while_it_trains_are_told_too(
    plan: Plan, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = shutil.copytree(interrupted, tmp_path / ".out.work")
    monkeypatch.setattr(loop, "score", lambda *given: loop.Score(99.0, 99.0))  # no later ones are better
    lines = Lines(7, lambda: shorten(work / BEST / "__0_0.distcp"))
    with pytest.raises(StageError, match=rf"{BEST}/__0_0\.distcp is not what was written"):
        execute(plan, tmp_path / "out", lines)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"key": 1}', '{"key": "", "parents": 1, "settings": 2, "processes": 3}']
)
def test_a_damaged_name_of_the_run_is_called_that(plan: Plan, interrupted: Path, tmp_path: Path, content: str) -> None:
    work = shutil.copytree(interrupted, tmp_path / ".out.work")
    (work / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run\.json is damaged") as caught:
        execute(plan, tmp_path / "out", Silent())
    assert caught.value.next_step == f"Remove {work} to start anew."


def test_a_bit_of_it_that_flips_is_damage_too_and_a_lost_one_is_missing(
    plan: Plan, interrupted: Path, tmp_path: Path
) -> None:
    known = shutil.copytree(interrupted, tmp_path / ".out.work") / "run.json"
    known.write_text(known.read_text("utf-8").replace('"optimizer"', '"optimizes"'), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run\.json is damaged"):
        execute(plan, tmp_path / "out", Silent())
    known.unlink()
    with pytest.raises(SettingsError, match=r"run\.json is missing"):
        execute(plan, tmp_path / "out", Silent())


def test_the_record_holds_what_the_run_needs_and_a_digest_of_each_file(interrupted: Path) -> None:
    record = json.loads((interrupted / STATE / "record.json").read_bytes())
    assert record["files"].keys() == {"__0_0.distcp", ".metadata"}
    assert record["content"]["best"] == 4
    assert record["content"]["record"]["run"]["step"] == 6


def test_a_run_that_fails_before_its_first_state_leaves_nothing(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the lights"):
        execute(plan, tmp_path / "out", Lines(1, fail))
    assert not list(tmp_path.iterdir())
