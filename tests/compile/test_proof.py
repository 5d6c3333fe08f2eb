"""Bundles that prove themselves: what is damaged or computes something else is told before anything is served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compile import library
from compile.bundle import plan_compile
from compile.schemes import parse_scheme
from compile.settings import CompileSettings
from serve.bundle import load_runner, open_bundle
from tests.compile.conftest import PARENT, CheckpointOf, Told
from tests.compile.families import VARIANTS
from toolchain.contracts import architectures, manifest
from toolchain.contracts.cache_folder import VARIABLE
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.contracts.targets import parse_target

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    settings = CompileSettings(target=("cpu", "x86-64-v2", "arm64-linux"))
    execute(plan_compile(checkpoint, PARENT, settings), out, Silent())
    return out


@pytest.fixture
def bundle(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be damaged, on a machine that has never seen it."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def seal_again(folder: Path) -> None:
    """Make the manifest agree with changed files, as if the compiler had written them."""
    old = manifest.read(folder)
    (folder / "manifest.json").unlink()
    manifest.seal(folder, kind="bundle", recipe=1, parents=old.parents, settings=old.settings, facts=old.facts)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["q4f16_1", "q0f32"])
def test_every_family_proves_itself(variant: str, scheme: str, checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    plan = plan_compile(checkpoint_of(variant), PARENT, CompileSettings(quantization=scheme))
    execute(plan, tmp_path / "bundle", Silent())
    opened = open_bundle(tmp_path / "bundle")
    assert load_runner(opened, Silent()).vocab_size == 500
    with np.load(tmp_path / "bundle" / "proof.npz") as proof:
        assert proof["logits"].shape == (4, 500)
        assert 4 < len(proof["ids"]) <= 32


def test_weights_whose_logits_are_not_finite_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.ln_f.weight"][:] = 1e38
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ArtifactError, match="logits are not finite"):
        execute(plan_compile(source, PARENT, CompileSettings(quantization="q0f32")), tmp_path / "bundle", Silent())
    assert not (tmp_path / "bundle").exists()


def test_the_files_are_checked_once(bundle: Path) -> None:
    first, second = Told(), Told()
    load_runner(open_bundle(bundle), first)
    load_runner(open_bundle(bundle), second)
    assert first.titles[0] == "checking the bundle's files"
    assert second.titles == first.titles[1:]


def test_a_flipped_byte_is_found_also_later(bundle: Path) -> None:
    load_runner(open_bundle(bundle), Silent())
    shard = bundle / "params" / "params_shard_0.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"damaged: params/params_shard_0.bin"):
        load_runner(open_bundle(bundle), Silent())


@pytest.mark.parametrize("file", ["params/tensor-cache.json", "params/params_shard_0.bin"])
def test_a_missing_file(file: str, bundle: Path) -> None:
    (bundle / file).unlink()
    with pytest.raises(ArtifactError, match=file):
        load_runner(open_bundle(bundle), Silent())


def test_a_truncated_library_is_found_before_it_is_loaded(bundle: Path) -> None:
    path = open_bundle(bundle).libraries[0][1]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=f"damaged: {path.name}"):
        load_runner(open_bundle(bundle), Silent())


def wrong_library(checkpoint: Path, out: Path) -> None:
    """A library for the same weights that computes another model: its norms are off."""
    facts = replace(architectures.read(checkpoint), norm_epsilon=10.0)
    library.build(facts, parse_scheme("q4f16_1"), STARCODER, parse_target("cpu"), out)


def test_a_library_that_computes_something_else_gives_way_to_the_next(bundle: Path, checkpoint: Path) -> None:
    (best, path), *others = open_bundle(bundle).libraries
    assert others
    wrong_library(checkpoint, path)
    seal_again(bundle)
    told = Told()
    runner = load_runner(open_bundle(bundle), told)
    assert runner.library.metadata["target"] == others[0][0].name
    assert best.name in told.lines[0]
    assert "something else than its model" in told.lines[0]


def test_without_a_next_library_nothing_is_served(bundle: Path, checkpoint: Path) -> None:
    facts = manifest.read(bundle).facts["targets"]
    for name in facts:
        wrong_library(checkpoint, bundle / facts[name])
    seal_again(bundle)
    for _ in range(2):  # a failure is not remembered
        with pytest.raises(ArtifactError, match="something else than its model"):
            load_runner(open_bundle(bundle), Silent())


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_a_proof_that_cannot_be_read(content: bytes, bundle: Path) -> None:
    (bundle / "proof.npz").write_bytes(content)
    seal_again(bundle)
    with pytest.raises(ArtifactError, match=r"proof\.npz"):
        load_runner(open_bundle(bundle), Silent())


def test_an_index_that_leaves_its_folder(bundle: Path) -> None:
    index = bundle / "params" / "tensor-cache.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["records"][0]["dataPath"] = "../params_shard_0.bin"
    index.write_text(json.dumps(content), encoding="utf-8")
    seal_again(bundle)
    with pytest.raises(ArtifactError, match="outside its folder"):
        load_runner(open_bundle(bundle), Silent())
