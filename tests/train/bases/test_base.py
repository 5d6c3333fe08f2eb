"""A base is refused before any work when it is not whole, not safe or cannot fill in the middle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolchain.contracts.errors import (
    ArtifactError,
    FimbleError,
    UnsupportedArchitecture,
    UserError,
)
from toolchain.contracts.manifest import writing
from train.bases import base
from train.bases.base import fingerprint, open_base

pytestmark = pytest.mark.train

Change = Callable[[Path], Any]


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def without_fim(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<fim_middle>", "<other>"))


def unfinished_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def index_that_leaves(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


REFUSED: list[tuple[Change, type[FimbleError], str]] = [
    (pickled, ArtifactError, "pickle, which can run code"),
    (truncated, ArtifactError, "model.safetensors is truncated or damaged"),
    (lambda folder: (folder / "model.safetensors").unlink(), ArtifactError, "neither model.safetensors nor"),
    (unfinished_index, ArtifactError, "lacks the shard model-1.safetensors"),
    (index_that_leaves, ArtifactError, "outside its folder"),
    (lambda folder: (folder / "config.json").unlink(), ArtifactError, "no config.json"),
    (config(model_type="decicoder", auto_map={"AutoModel": "x.y"}), UnsupportedArchitecture, "code of its own"),
    (config(model_type="mamba"), UnsupportedArchitecture, "'mamba'"),
    (config(quantization_config={"bits": 4}), ArtifactError, "quantized"),
    (config(vocab_size=100), ArtifactError, "the model only 100 entries"),
    (lambda folder: (folder / "tokenizer.json").unlink(), ArtifactError, "no tokenizer.json"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), ArtifactError, "tokenizer.json cannot be read"),
    (lambda folder: (folder / "adapter_config.json").write_text("{}"), ArtifactError, "is an adapter"),
]


@pytest.mark.parametrize(("change", "kind", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_a_bad_base_is_refused(
    base_folder: Path, tmp_path: Path, change: Change, kind: type[FimbleError], message: str
) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    change(folder)
    with pytest.raises(kind, match=message) as caught:
        open_base(str(folder), tmp_path / "cache")
    assert caught.value.next_step


def test_a_folder_of_checkpoints_is_refused_with_their_names(base_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(base_folder, tmp_path / "several" / "one")
    with pytest.raises(ArtifactError, match="several holds checkpoints and is none") as caught:
        open_base(str(tmp_path / "several"), tmp_path / "cache")
    assert caught.value.next_step == "Name one of them: one."


def test_what_a_base_lacks_of_fim_is_known(base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    without_fim(folder)
    base = open_base(str(folder), tmp_path / "cache")
    assert base.lacks == ("<fim_middle>",)
    assert "<fim_middle>" in str(base.fim_refusal())
    path = folder / "tokenizer.json"
    path.write_text((base_folder / "tokenizer.json").read_text().replace("<fim_pad>", "<other>"))
    base = open_base(str(folder), tmp_path / "cache")
    assert (base.lacks, base.spec.pad) == ((), None)


def test_a_foreign_folder_is_known_by_what_is_in_it(base_folder: Path, tmp_path: Path) -> None:
    one = open_base(str(base_folder), tmp_path / "cache")
    folder = shutil.copytree(base_folder, tmp_path / "elsewhere")
    (folder / "README.md").write_text("hello")
    assert open_base(str(folder), tmp_path / "cache").digest == one.digest
    config(initializer_range=0.5)(folder)
    assert open_base(str(folder), tmp_path / "cache").digest != one.digest
    assert one.name == "tiny-base"
    assert one.parent.role == "base"
    assert one.spec.orders == ("psm", "spm")


def test_a_foreign_folder_may_have_a_manifest_of_another_tool(base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    (folder / "manifest.json").write_text('{"name": "app"}')
    assert open_base(str(folder), tmp_path / "cache").digest == fingerprint(base_folder)


def test_hashes_are_remembered(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    (folder / "config.json").touch()  # a file this fresh may change again and look the same
    digest = open_base(str(folder), tmp_path / "cache").digest
    hashed: list[str] = []
    original = base.sha256_of
    monkeypatch.setattr(base, "sha256_of", lambda path: hashed.append(path.name) or original(path))
    assert open_base(str(folder), tmp_path / "cache").digest == digest == fingerprint(folder)
    assert hashed == ["config.json"]
    (memory,) = (tmp_path / "cache" / "hashes").iterdir()
    memory.write_text("damaged")
    assert open_base(str(folder), tmp_path / "cache").digest == digest
    assert "model.safetensors" in hashed


def test_a_checkpoint_of_ours_is_known_by_its_manifest(base_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    with writing(out, kind="checkpoint", recipe=1, parents=(), settings={}) as draft:
        shutil.copytree(base_folder, draft.path, dirs_exist_ok=True)
        draft.facts["name"] = "starcoder"
    base = open_base(str(out), tmp_path / "cache")
    assert base.name == "starcoder"
    assert base.digest == json.loads((out / "manifest.json").read_text())["digest"]
    assert not (tmp_path / "cache").exists()
    with writing(tmp_path / "data", kind="dataset", recipe=1, parents=(), settings={}):
        pass
    with pytest.raises(ArtifactError, match="is a dataset, not a checkpoint"):
        open_base(str(tmp_path / "data"), tmp_path / "cache")
    with writing(tmp_path / "tuned", kind="adapter", recipe=1, parents=(), settings={}) as draft:
        (draft.path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"is an adapter, not a base\. Merge it into its base first"):
        open_base(str(tmp_path / "tuned"), tmp_path / "cache")


def test_a_name_that_cannot_be_had_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("./missing", "/missing/folder", "one", "a/b/c"):
        with pytest.raises(UserError, match="neither a folder nor a hub id"):
            open_base(name, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match="nobody/nothing cannot be fetched") as caught:
        open_base("nobody/nothing", tmp_path)
    assert "network" in caught.value.next_step
    assert "\n" not in str(caught.value)
