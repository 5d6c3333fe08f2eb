"""Libraries for GPUs as far as they can be shown without one: what they hold, and what becomes of them elsewhere."""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from compile import cuda, library
from compile.bundle import plan_compile
from compile.schemes import parse_scheme
from compile.settings import CompileSettings
from serve.bundle import load_runner, open_bundle
from tests.compile.conftest import PARENT, CheckpointOf, Told
from tests.compile.families import FAMILIES
from toolchain.contracts import architectures, manifest
from toolchain.contracts.errors import ArtifactError, SettingsError, UnknownTarget
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.contracts.targets import Target, parse_target, this_system

pytestmark = pytest.mark.compile
CUDA_MACHINE = 190  # EM_CUDA
needs_linux = pytest.mark.skipif(this_system() != "linux", reason="needs Linux")
needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")


def build(checkpoint: Path, target: Target, folder: Path, scheme: str = "q4f16_1") -> bytes:
    out = folder / f"library.{target.extension}"
    library.build(architectures.read(checkpoint), parse_scheme(scheme), STARCODER, target, out)
    return out.read_bytes()


def gpu_architectures(content: bytes) -> set[int]:
    """The compute capabilities, as 89 for sm_89, of the ELF files for GPUs inside `content`."""
    found, at = set(), content.find(b"\x7fELF")
    while at >= 0:
        (machine,), (flags,) = struct.unpack_from("<H", content, at + 18), struct.unpack_from("<I", content, at + 48)
        if machine == CUDA_MACHINE:
            found.add((flags >> 8) & 0xFF)
        at = content.find(b"\x7fELF", at + 4)
    return found


@needs_linux
@pytest.mark.slow
def test_cuda_holds_machine_code_for_each_architecture(checkpoint: Path, tmp_path: Path) -> None:
    if cuda.missing():
        pytest.skip(f"needs {cuda.missing()}")
    target = replace(parse_target("cuda"), archs=("sm_89", "sm_86"))
    content = build(checkpoint, target, tmp_path)
    assert gpu_architectures(content) == {86, 89}
    assert b"__launch_bounds__" not in content


def test_ptx_is_that_of_the_newest_architecture_and_of_none_of_its_own() -> None:
    options = [option.removeprefix("-gencode=arch=") for option in cuda.gencodes(("sm_100", "sm_90a", "sm_80"))]
    assert options == [
        "compute_80,code=sm_80",
        "compute_90a,code=sm_90a",
        "compute_100,code=sm_100",
        "compute_100,code=compute_100",
    ]
    assert cuda.gencodes(("sm_90a",))[-1] == "-gencode=arch=compute_90,code=compute_90"


@needs_linux
def test_a_bundle_is_not_current_once_nvcc_is_there(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, keys = CompileSettings(target=("cuda",)), []
    for version in ("none", "Build cuda_13"):
        monkeypatch.setattr(cuda, "nvcc_version", lambda version=version: version)
        keys.append(plan_compile(checkpoint, PARENT, settings).key)
    assert keys[0] != keys[1]


@needs_linux
def test_without_nvcc_cuda_holds_its_source(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "nvcc", lambda: None)
    content = build(checkpoint, replace(parse_target("cuda"), archs=("sm_89",)), tmp_path)
    assert gpu_architectures(content) == set()
    assert b"__launch_bounds__" in content


@needs_zig
@pytest.mark.parametrize("variant", FAMILIES)
def test_metal_is_a_library_for_apples_processors(variant: str, checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    content = build(checkpoint_of(variant), parse_target("metal"), tmp_path)
    magic, processor, _, kind = struct.unpack_from("<4I", content)
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 6)  # Mach-O with 64 bits, arm64, a dynamic library
    assert content.count(b"kernel void") > 20
    assert b"#include <metal_stdlib>" in content


def test_vulkan_is_refused_with_the_wheel_that_has_it(checkpoint: Path, tmp_path: Path) -> None:
    import tvm_ffi

    if tvm_ffi.get_global_func("target.build.vulkan", allow_missing=True):
        pytest.skip("the installed TVM has Vulkan")
    with pytest.raises(UnknownTarget, match="cannot compile for vulkan") as caught:
        build(checkpoint, parse_target("vulkan"), tmp_path)
    assert "mlc.ai/wheels" in caught.value.next_step


@needs_linux
@needs_zig
def test_a_bundle_for_gpus_serves_from_the_processor_where_there_is_none(checkpoint: Path, tmp_path: Path) -> None:
    settings = CompileSettings(target=("cuda", "cpu", "metal"), arch=("sm_89",))
    execute(plan_compile(checkpoint, PARENT, settings), tmp_path / "bundle", Silent())
    names = [target.name for target, _ in open_bundle(tmp_path / "bundle").libraries]
    assert names == [parse_target("cuda").name, parse_target("cpu").name]
    told = Told()
    runner = load_runner(open_bundle(tmp_path / "bundle"), told)
    if runner.library.metadata["target"].startswith("cuda"):
        pytest.skip("this machine has a GPU")
    assert "cuda" in told.lines[0]
    assert runner.forward([1, 2, 3], 0).shape == (500,)
    assert set(manifest.read(tmp_path / "bundle").facts["targets"]) == {*names, "metal-macos"}


@needs_linux
def test_a_bundle_for_another_system_says_so(checkpoint: Path, tmp_path: Path) -> None:
    execute(plan_compile(checkpoint, PARENT, CompileSettings(target=("arm64-macos",))), tmp_path / "bundle", Silent())
    with pytest.raises(ArtifactError, match="arm64-macos: it is for macos"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.skipif(cuda.missing() is not None, reason="there is no nvcc here")
def test_an_architecture_that_nvcc_does_not_know_is_refused_before_any_work(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"nvcc does not know --arch sm_999.*sm_90"):
        plan_compile(checkpoint, PARENT, CompileSettings(target=("cuda",), arch=("sm_90", "sm_999")))
