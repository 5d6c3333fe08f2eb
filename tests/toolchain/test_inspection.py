"""What `fimble inspect` finds near by, among whatever else lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.contracts import manifest
from toolchain.contracts.manifest import Kind, Manifest, Parent
from toolchain.inspection import describe


def artifact(folder: Path, kind: Kind, *parents: Manifest) -> Manifest:
    named = [Parent(kind=parent.kind, digest=parent.digest) for parent in parents]
    with manifest.writing(folder, kind=kind, recipe=1, parents=named, settings={}) as draft:
        (draft.path / "file.txt").write_text(kind, encoding="utf-8")
    return manifest.read(folder)


def strangers(folder: Path) -> None:
    """Folders of others that have a manifest too: a web page's, a newer fimble's, a folder of that name."""
    for name, content in (("page", '{"name": "app"}'), ("broken", "{"), ("newer", '{"schema_version": 99}')):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(content, encoding="utf-8")
    (folder / "odd" / "manifest.json").mkdir(parents=True)


def ancestors(folder: Path) -> list[str | None]:
    found, level = [], describe(folder, verify=False)["ancestry"]
    while level:
        found.append(level[0]["folder"])
        level = level[0]["parents"]
    return found


@pytest.mark.parametrize("layout", ["beside one another", "in a workspace"])
def test_the_ancestry_is_found_among_strangers(tmp_path: Path, layout: str) -> None:
    home = tmp_path / "home"
    places = [home / "dataset", home / "adapter", home / "checkpoint"]
    if layout == "in a workspace":
        places = [place / "0123" for place in places]
    data = artifact(places[0], "dataset")
    tuned = artifact(places[1], "adapter", data)
    artifact(places[2], "checkpoint", tuned)
    strangers(places[0].parent)
    assert ancestors(places[2]) == [str(places[1].resolve()), str(places[0].resolve())]


def test_outside_a_workspace_only_what_lies_beside_it_is_looked_at(tmp_path: Path) -> None:
    data = artifact(tmp_path / "elsewhere" / "data", "dataset")
    artifact(tmp_path / "mine" / "tuned", "adapter", data)
    assert ancestors(tmp_path / "mine" / "tuned") == [None]


def test_what_is_missing_or_cut_short_is_told_without_reading_the_files(tmp_path: Path) -> None:
    artifact(tmp_path / "whole", "dataset")
    assert "problems" not in describe(tmp_path / "whole", verify=False)
    (tmp_path / "whole" / "file.txt").write_text("data")
    (problem,) = describe(tmp_path / "whole", verify=False)["problems"]
    assert "file.txt is missing or has another size" in problem
