from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.data.repositories import commit_files, module, write_files
from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError, SourceError, StageError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute, is_current

pytestmark = pytest.mark.train
pytest.importorskip("pyarrow", reason="needs the train extra")

import pyarrow.parquet

from train.data import collect as stage
from train.data import shards
from train.data.settings import CollectSettings

MIT = b"Permission is hereby granted, free of charge, to any person obtaining a copy"
TOPICS = ("alpha", "beta", "gamma", "delta", "omega", "kappa", "sigma", "theta")


@pytest.fixture
def repository(tmp_path):
    files = {f"src/{topic}.py": module(topic, 30) for topic in TOPICS}
    files |= {"LICENSE": MIT, "logo.png": b"\x89PNG", "src/empty.py": b"", "src/windows.py": b"a = 1\r\nb = 2\r\n"}
    files |= {"tokens.py": b"TOKENS = '<fim_prefix><|endoftext|>'\n"}
    commit_files(tmp_path / "tool", files)
    return tmp_path / "tool"


def rows(out: Path, split: str):
    tables = [pyarrow.parquet.read_table(path) for path in sorted((out / "data").glob(f"{split}-*.parquet"))]
    return pyarrow.concat_tables(tables).to_pylist()


def plan(sources, settings, cache, progress=None):
    return stage.plan(sources, settings, cache, progress or Silent())


def collect(sources, out, settings=None, cache=None):
    cache = cache or out.parent / "cache"
    return execute(plan([str(s) for s in sources], settings or CollectSettings(), cache), out, Silent())


def test_a_repository_becomes_a_dataset(repository, tmp_path):
    made = collect([repository], tmp_path / "out")
    train, held = rows(tmp_path / "out", "train"), rows(tmp_path / "out", "heldout")
    assert manifest.verify(tmp_path / "out") == []
    assert train
    assert held
    everything = {row["path"]: row for row in train + held}
    assert set(everything) == {*(f"src/{topic}.py" for topic in TOPICS), "src/windows.py", "tokens.py"}
    assert [row["path"] for row in train] == sorted(row["path"] for row in train)
    assert everything["src/windows.py"]["content"] == "a = 1\nb = 2\n"
    assert everything["tokens.py"]["content"] == "TOKENS = '<fim_prefix><|endoftext|>'\n"
    row = everything["src/alpha.py"]
    commit = made.settings["sources"][0]["commit"]
    assert (row["repository"], row["commit"], row["license"], row["language"]) == ("tool", commit, "MIT", "Python")
    assert made.facts["dropped"] == {"empty": 1, "not source text by name": 2}
    assert made.facts["files"] == {"train": len(train), "heldout": len(held)}
    assert made.facts["bytes"]["train"] == sum(len(row["content"].encode()) for row in train)
    assert made.facts["repositories"][0]["files"] == 10


def test_datasets_loads_it_with_two_splits(repository, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the train extra")
    made = collect([repository], tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == made.facts["files"]
    assert loaded["train"].column_names == list(shards.COLUMNS)


def test_two_runs_are_equal_to_the_byte(repository, tmp_path):
    folder = write_files(tmp_path / "notes", {"a.md": b"# One\n", "b.py": module("zeta")})
    first = collect([repository, folder], tmp_path / "one")
    second = collect([folder, repository, folder], tmp_path / "two", cache=tmp_path / "cache")
    assert first.digest == second.digest
    assert str(tmp_path) not in (tmp_path / "one" / "manifest.json").read_text()
    assert str(tmp_path) not in (tmp_path / "one" / "README.md").read_text()


def test_another_process_gives_the_same_digest(repository, tmp_path):
    made = collect([repository], tmp_path / "one")
    code = (
        "import sys; from pathlib import Path; from train.data.collect import plan; "
        "from train.data.settings import CollectSettings as S; from toolchain.contracts.stage import execute; "
        "from toolchain.contracts.progress import Silent; "
        "out = Path(sys.argv[2]); plan = plan([sys.argv[1]], S(), out.parent, Silent()); "
        "print(execute(plan, out, Silent()).digest)"
    )
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, str(repository), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert done.stdout.strip() == made.digest


def test_the_key_moves_with_the_repository_and_the_settings(repository, tmp_path):
    settings = CollectSettings()
    before = plan([str(repository)], settings, tmp_path / "cache")
    assert plan([str(repository)], settings, tmp_path / "cache").key == before.key
    assert plan([str(repository)], CollectSettings(heldout_fraction=0.2), tmp_path / "cache").key != before.key
    execute(before, tmp_path / "out", Silent())
    assert is_current(plan([str(repository)], settings, tmp_path / "cache"), tmp_path / "out")
    commit_files(repository, {"new.py": module("new"), "other.py": module("other")})
    assert not is_current(plan([str(repository)], settings, tmp_path / "cache"), tmp_path / "out")


def test_copies_stay_once_and_never_on_both_sides(tmp_path):
    originals = {f"{topic}.py": module(topic, 60) for topic in TOPICS}
    commit_files(tmp_path / "one", originals)
    edited = {f"vendored/{name}": data.replace(b"_3_offset", b"_3_changed") for name, data in originals.items()}
    commit_files(tmp_path / "two", edited | {"same.py": originals["alpha.py"]})
    made = collect([tmp_path / "one", tmp_path / "two"], tmp_path / "out", CollectSettings(heldout_fraction=0.5))
    assert made.facts["dropped"] == {"duplicate": 1, "near-duplicate": 8}
    both = rows(tmp_path / "out", "train") + rows(tmp_path / "out", "heldout")
    assert sorted(row["path"] for row in both) == sorted(originals)


def test_repositories_of_one_name_do_not_collide(tmp_path):
    commit_files(tmp_path / "x" / "lib", {"a.py": module("ax")})
    commit_files(tmp_path / "y" / "lib", {"a.py": module("ay")})
    commit_files(tmp_path / "z" / "lib-2", {"a.py": module("az")})
    made = collect([tmp_path / "y" / "lib", tmp_path / "z" / "lib-2", tmp_path / "x" / "lib"], tmp_path / "out")
    names = [repository["name"] for repository in made.facts["repositories"]]
    assert len(set(names)) == 3
    assert {"lib", "lib-2"} < set(names)
    both = rows(tmp_path / "out", "train") + rows(tmp_path / "out", "heldout")
    assert len({(row["repository"], row["path"]) for row in both}) == 3


def test_excluded_license_drops_the_repository(repository, tmp_path):
    commit_files(tmp_path / "free", {"a.py": module("free"), "b.py": module("open")})
    made = collect([repository, tmp_path / "free"], tmp_path / "out", CollectSettings(licenses_excluded=("MIT",)))
    assert made.facts["dropped"]["license excluded"] == 11
    assert {row["repository"] for row in rows(tmp_path / "out", "train")} == {"free"}


def test_a_folder_of_a_repository_is_under_its_license(repository, tmp_path):
    (repository / "src").mkdir()
    made = collect([repository / "src"], tmp_path / "out")
    assert made.facts["repositories"][0]["license"] == "MIT"


def test_text_is_cut_into_shards(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 6000)
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 2000)
    made = collect([repository], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "data").glob("train-*"))
    assert len(names) > 1
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    paths = [row["path"] for row in rows(tmp_path / "out", "train")]
    assert paths == sorted(paths)
    assert len(paths) == made.facts["files"]["train"]


@pytest.mark.parametrize("files", [{"only.py": b"x = 1\n"}, {"a.png": b"x"}, {"a.py": b"", "b.py": b"x = 1\n"}])
def test_too_little_is_an_error_that_says_why(tmp_path, files):
    commit_files(tmp_path / "tool", files)
    with pytest.raises(SourceError, match="needs two") as caught:
        collect([tmp_path / "tool"], tmp_path / "out")
    assert caught.value.next_step
    assert not (tmp_path / "out").exists()


def test_no_source_and_a_bad_pattern_are_found_before_reading(tmp_path):
    with pytest.raises(SourceError):
        plan([], CollectSettings(), tmp_path / "cache")
    with pytest.raises(SettingsError):
        plan(["/nowhere"], CollectSettings(include=("!",)), tmp_path / "cache")


def test_a_folder_that_changes_leaves_nothing(tmp_path):
    folder = write_files(tmp_path / "tool", {f"{topic}.py": module(topic) for topic in TOPICS})
    planned = plan([str(folder)], CollectSettings(), tmp_path / "cache")
    write_files(folder, {"theta.py": module("changed")})
    with pytest.raises(StageError, match="Run again"):
        execute(planned, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_no_manifest_and_the_next_is_whole(repository, tmp_path):
    class Interrupting(Silent):
        def start(self, title, total=None, unit=""):
            if title.startswith("Writing"):
                raise KeyboardInterrupt

    planned = plan([str(repository)], CollectSettings(), tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        execute(planned, tmp_path / "out", Interrupting())
    assert not list(tmp_path.rglob("manifest.json"))
    execute(planned, tmp_path / "out", Silent())
    assert manifest.verify(tmp_path / "out") == []


def test_settings_need_no_heavy_library():
    code = (
        "import sys, train.data.settings; "
        "heavy = {'dulwich', 'pyarrow', 'numpy', 'pathspec', 'rensa', 'torch', 'datasets'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
