"""mlc_llm's compiler as the builder of a bundle.

No wheel of mlc_llm is on the package index, so a module stands in that takes the command line as mlc_llm's sources
have it and refuses any other. Both families below were also built with mlc_llm's own sources, by hand.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from compile.bundle import plan_compile
from compile.settings import CompileSettings
from tests.compile.conftest import CheckpointOf
from toolchain.contracts import manifest
from toolchain.contracts.errors import MissingExtra, SettingsError, StageError
from toolchain.contracts.manifest import Parent
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.contracts.targets import parse_target, this_system

pytestmark = pytest.mark.compile
PARENT = Parent(kind="checkpoint", digest="0" * 64)
MODULE = textwrap.dedent(
    """
    import argparse, json, os, pathlib, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["compile"])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--device", type=json.loads)
    parser.add_argument("--output", type=pathlib.Path)
    given = parser.parse_args()
    config = json.loads((given.model / "mlc-chat-config.json").read_text())
    if config["model_type"] == "llama":
        sys.exit("Traceback\\nRuntimeError: no such kernel")
    said = [config["quantization"], given.device, os.environ.get("MLC_MULTI_ARCH")]
    with given.output.open("a") as file:
        file.write(json.dumps(said))
    print("compiling once", file=open(pathlib.Path(__file__).parent / "log", "a"))
    """
)


@pytest.fixture
def mlc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module, for this process and for those it starts."""
    folder = tmp_path / "mlc"
    folder.mkdir()
    (folder / "mlc_llm.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FIMBLE_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_bundle_with_libraries_of_mlc_llm(checkpoint: Path, tmp_path: Path, mlc: Path) -> None:
    settings = CompileSettings(target=("cpu", "cuda"), arch=("sm_86", "sm_89"), builder="mlc-llm")
    facts = execute(plan_compile(checkpoint, PARENT, settings), tmp_path / "bundle", Silent()).facts
    cpu = parse_target("cpu").name
    assert facts["builder"] == "mlc-llm"
    assert facts["targets"] == {
        cpu: f"copilot-q4f16_1-{cpu}-mlc.so",
        "cuda-linux": "copilot-q4f16_1-cuda-linux-mlc.so",
    }
    said = {name: json.loads((tmp_path / "bundle" / file).read_text()) for name, file in facts["targets"].items()}
    assert [said[cpu][0], said[cpu][1]["kind"], said[cpu][2]] == ["q4f16_1", "llvm", None]
    assert [said["cuda-linux"][1]["kind"], said["cuda-linux"][2]] == ["cuda", "86,89"]
    assert said["cuda-linux"][1]["host"]["kind"] == "llvm"
    assert manifest.verify(tmp_path / "bundle") == []
    execute(plan_compile(checkpoint, PARENT, settings), tmp_path / "again", Silent())
    assert (mlc / "log").read_text().count("once") == 2  # the second bundle's are in the cache


@pytest.mark.usefixtures("mlc")
def test_what_mlc_llm_cannot_do_is_told_before_any_work(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"does not know the scheme q8f16_1.*q4f16_1"):
        plan_compile(checkpoint, PARENT, CompileSettings(quantization="q8f16_1", builder="mlc-llm"))
    other = "windows" if this_system() != "windows" else "linux"
    with pytest.raises(SettingsError, match=f"cannot build for {other}"):
        plan_compile(checkpoint, PARENT, CompileSettings(target=(f"cuda-{other}",), builder="mlc-llm"))


@pytest.mark.usefixtures("mlc")
def test_its_own_words_when_it_fails(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    plan = plan_compile(checkpoint_of("llama"), PARENT, CompileSettings(builder="mlc-llm"))
    with pytest.raises(StageError, match=r"could not compile for .*: RuntimeError: no such kernel.*mlc_llm compile"):
        execute(plan, tmp_path / "bundle", Silent())
    assert not (tmp_path / "bundle").exists()


def test_without_mlc_llm(checkpoint: Path) -> None:
    with pytest.raises(MissingExtra, match=r"mlc_llm is not installed.*https://mlc.ai/wheels"):
        plan_compile(checkpoint, PARENT, CompileSettings(builder="mlc-llm"))
