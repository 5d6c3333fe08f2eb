"""The task for SkyPilot: YAML whatever the names are, and only of what gets to a rented machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.conftest import Fimble
from train.launch import skypilot
from train.launch.settings import LaunchSettings

pytestmark = pytest.mark.train

yaml = pytest.importorskip("ruamel.yaml", reason="needs the serve extra")
WHEEL = "fimble-0.1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(WHEEL).touch()


def task(out: str, arguments: list[str], **settings: Any) -> dict[str, Any]:
    chosen = LaunchSettings(launcher="skypilot", **{"gpu": "A100-80GB", "install": WHEEL, **settings})
    read: dict[str, Any] = yaml.YAML(typ="safe").load(skypilot.submission(chosen, arguments, Path(out)).text)
    return read


def test_a_task_says_what_is_rented_and_run() -> None:
    read = task("out", ["train", "data", "--out", "out"], count=8, nodes=2)
    assert read["name"] == "out"
    assert read["resources"] == {"accelerators": "A100-80GB:8"}
    assert (read["num_nodes"], read["workdir"]) == (2, ".")
    words = shlex.split(read["run"])
    assert words[:8] == ["python3", "-P", "-m", "toolchain.cli", "train", "data", "--out", "out"]
    assert words[8:14] == ["--launcher", "torchrun", "--count", "8", "--nodes", "2"]
    assert words[14:] == ["--rendezvous", "$(echo $SKYPILOT_NODE_IPS | head -n 1):29500"]
    assert shlex.split(read["setup"])[-1] == f"./{WHEEL}{skypilot.EXTRAS}"


@pytest.mark.parametrize("name", ["no: yes #", "- a", "'b\" $(touch owned)", "two\nlines: here", "*x & {y}", "..."])
def test_any_name_is_one_word_of_yaml_and_of_the_shell(name: str) -> None:
    read = task(name, ["train", name, "--out", name], gpu="A100: x")
    assert set(read) == {"name", "resources", "num_nodes", "workdir", "setup", "run"}
    assert shlex.split(read["run"])[4:8] == ["train", name, "--out", name]
    assert read["name"].replace("-", "").isalnum()
    assert read["resources"] == {"accelerators": "A100: x:1"}


def test_a_url_is_installed_from_as_pip_writes_it() -> None:
    read = task("out", ["train"], install="git+https://host.example/fimble")
    assert shlex.split(read["setup"])[-1] == f"fimble{skypilot.EXTRAS} @ git+https://host.example/fimble"


def test_only_paths_into_this_folder_get_there(fimble: Fimble, dataset: Path, base_folder: Path) -> None:
    rent = ("--launcher", "skypilot", "--gpu", "A100", "--install", WHEEL, "--dry-run")
    line = ("train", "data", "--base", "owner/model", "--out", "out", *rent)
    Path("data").mkdir()
    for changed in (["--base", base_folder], ["--out", "../out"], ["--out", "/out"], ["--track", "~/curves"]):
        fimble(*line, *changed).refused(f"{changed[1]} does not exist on a rented machine")
    fimble("train", dataset, *line[2:]).refused(f"{dataset} does not exist on a rented machine")
    fimble(*line, "--install", "../x.whl").refused("--install ../x.whl is neither a file or folder here nor a URL")
    fimble(*line, "--install", "/").refused("/ does not exist on a rented machine")
    shown = fimble(*line)
    assert shown.code == 0, shown.err
    assert "sky launch out.sky.yaml" in shown.out
    assert not Path("out.sky.yaml").exists()
