"""Libraries for processors: what they say of themselves, where they may run, and that nothing else is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compile import cuda, library_cache
from compile.bundle import plan_compile
from compile.schemes import parse_scheme
from compile.settings import CompileSettings
from serve.bundle import load_runner, open_bundle
from serve.engine.explicit_runner import ExplicitRunner
from serve.engine.library import Library
from tests.compile.conftest import PARENT
from toolchain.contracts import architectures, library_metadata, manifest, object_archive, processors, targets
from toolchain.contracts.cache_folder import VARIABLE
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.fim import STARCODER, STARCODER2
from toolchain.contracts.manifest import Parent
from toolchain.contracts.processors import LEVELS, missing
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.contracts.targets import parse_target

pytestmark = pytest.mark.compile
CROSS = ("x86-64-v2-linux", "x86-64-v4-linux", "x86-64-v3-windows", "arm64-linux", "arm64-macos")
# ELF's machine, COFF's machine and Mach-O's magic with its kind of processor, at the start of each object.
MARKS = {
    "x86-64-v2-linux": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\x00\x3e\x00",
    "x86-64-v4-linux": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\x00\x3e\x00",
    "x86-64-v3-windows": b"\x64\x86",
    "arm64-linux": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\x00\xb7\x00",
    "arm64-macos": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01",
}


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine and for others."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    execute(plan_compile(checkpoint, PARENT, CompileSettings(target=("cpu", *CROSS))), out, Silent())
    return out


@pytest.mark.parametrize("target", CROSS)
def test_objects_are_those_of_the_machine_they_are_for(target: str, bundle: Path) -> None:
    objects = object_archive.read(bundle / manifest.read(bundle).facts["targets"][target])
    assert len(objects) == 2
    for content in objects.values():
        assert content.startswith(MARKS[target])


def test_serves_the_best_library_that_this_machine_can_run(bundle: Path) -> None:
    levels = [target.level for target, _ in open_bundle(bundle).libraries]
    assert levels == sorted(levels, reverse=True)
    assert all(not missing(LEVELS[level]) for level in levels)
    assert parse_target("cpu").level == levels[0]


def test_older_levels_compute_the_same(bundle: Path) -> None:
    from serve.engine.loading import load

    opened = open_bundle(bundle)
    logits = [load(path, opened.params).forward([1, 2, 3], 0) for _, path in opened.libraries]
    assert len(logits) > 1
    for others in logits[1:]:
        assert abs(others - logits[0]).max() < 1e-4 * abs(logits[0]).max()


def test_needs_neither_compiler_nor_linker(checkpoint: Path, tmp_path: Path) -> None:
    """Building and completing, with nothing on the PATH."""
    program = f"""
from pathlib import Path
from compile.bundle import plan_compile
from compile.settings import CompileSettings
from serve.bundle import load_runner, open_bundle
from toolchain.contracts.manifest import Parent
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
plan = plan_compile(Path({str(checkpoint)!r}), Parent(kind="checkpoint", digest="0" * 64), CompileSettings())
execute(plan, Path({str(tmp_path / "bundle")!r}), Silent())
print(load_runner(open_bundle(Path({str(tmp_path / "bundle")!r})), Silent()).forward([1, 2, 3], 0).argmax())
"""
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), VARIABLE: str(tmp_path / "cache")}
    found = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().isdigit()


def test_serving_loads_neither_torch_nor_the_compiler(bundle: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from serve.bundle import load_runner, open_bundle
from toolchain.contracts.progress import Silent
load_runner(open_bundle(Path({str(bundle)!r})), Silent()).forward([1, 2, 3], 0)
print(sorted(name for name in ("torch", "tvm", "transformers", "compile") if name in sys.modules))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_says_what_it_is(bundle: Path) -> None:
    from serve.engine.loading import load

    opened = open_bundle(bundle)
    told = load(opened.libraries[0][1], opened.params).library.metadata
    facts = manifest.read(bundle).facts
    assert (told["model_type"], told["quantization"], told["target"]) == (
        "gpt_bigcode",
        "q4f16_1",
        parse_target("cpu").name,
    )
    assert (told["context_window_size"], told["parameters"]) == (160, facts["parameters"])
    assert told["fim"] == STARCODER.to_json()
    assert told["tvm"] == "0.27"


@pytest.mark.parametrize("name", ["x86-64-v4-linux", "arm64-linux", "arm64-macos"])
def test_a_library_for_another_processor_never_runs(name: str, bundle: Path) -> None:
    from serve.engine.loading import load
    from toolchain.contracts.targets import unfit

    if not unfit(parse_target(name)):
        pytest.skip(f"this machine runs {name}")
    with pytest.raises(ArtifactError, match=r"lacks|cannot be loaded|it is for"):
        load(bundle / manifest.read(bundle).facts["targets"][name], bundle / "params")


def test_says_which_machine_a_library_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = targets.this_system()
    monkeypatch.setattr(processors, "machine", lambda: "arm64")
    assert targets.unfit(parse_target(f"arm64-{here}")) is None
    assert targets.unfit(parse_target(f"x86-64-v3-{here}")) == "it is for x86_64, and this machine is arm64"
    monkeypatch.setattr(processors, "machine", lambda: "x86_64")
    assert targets.unfit(parse_target(f"arm64-{here}")) == "it is for arm64, and this machine is x86_64"


@pytest.mark.parametrize("share", [0, 1e-5, 1e-3, 0.5, 0.999])
def test_a_truncated_library(share: float, bundle: Path, tmp_path: Path) -> None:
    from serve.engine.loading import load

    content = open_bundle(bundle).libraries[0][1].read_bytes()
    (tmp_path / "short.a").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(tmp_path / "short.a", bundle / "params")


def test_the_key_of_a_library_covers_its_shape_and_not_the_model(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    facts, scheme, target = architectures.from_config(config), parse_scheme("q4f16_1"), parse_target("cpu")
    key = library_cache.key(facts, scheme, STARCODER, target)
    tuned = architectures.from_config(config | {"_name_or_path": "mine"})
    assert library_cache.key(tuned, scheme, STARCODER, target) == key
    wider = architectures.from_config(config | {"n_inner": 512})
    others = [
        library_cache.key(wider, scheme, STARCODER, target),
        library_cache.key(facts, parse_scheme("q0f16"), STARCODER, target),
        library_cache.key(facts, scheme, STARCODER2, target),
        library_cache.key(facts, scheme, STARCODER, parse_target("arm64")),
    ]
    assert len({key, *others}) == 5


def test_the_key_of_a_library_covers_the_machine_that_builds_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, scheme = architectures.read(checkpoint), parse_scheme("q4f16_1")

    def keys() -> list[str]:
        targets = parse_target("x86-64-v2-linux"), parse_target("cuda-linux")
        return [library_cache.key(facts, scheme, STARCODER, target) for target in targets]

    monkeypatch.setattr(cuda, "nvcc_version", lambda: "one")
    first = keys()
    monkeypatch.setattr(cuda, "nvcc_version", lambda: "another")
    cpu, gpu = keys()
    assert cpu == first[0]
    assert gpu != first[1]
    monkeypatch.setattr(library_cache, "machine", lambda: "another")
    assert set(keys()).isdisjoint({cpu, gpu})


def test_the_key_of_a_library_covers_the_modules_that_build_it() -> None:
    program = """
import sys
from compile import library
print(*(module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)), sep="\\n")
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    imported = {Path(line) for line in found.stdout.splitlines() if line.startswith(str(root / "compile"))}
    covered = {path for name in library_cache.SOURCES for path in root.glob(name)}
    beside = {"__init__.py", "reference.py"}  # the package's docstring, and what libraries are held to
    assert {path.relative_to(root / "compile").as_posix() for path in imported - covered} == beside
    assert Path(library_metadata.__file__) in covered  # a version that goes up builds anew


def test_a_library_of_another_version_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    monkeypatch.setattr(library_metadata, "VERSION", library_metadata.VERSION + 1)
    with pytest.raises(ArtifactError, match="another version of fimble"):
        Library(opened.libraries[0][1], opened.params)


def test_models_of_one_shape_share_a_library(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compile import library

    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    first = execute(plan_compile(checkpoint, PARENT, CompileSettings()), tmp_path / "first", Silent())
    monkeypatch.setattr(library, "build", lambda *_: pytest.fail("the library was built again"))
    other = Parent(kind="checkpoint", digest="1" * 64)
    second = execute(plan_compile(checkpoint, other, CompileSettings()), tmp_path / "second", Silent())
    assert second.facts == first.facts
    (kept,) = (tmp_path / "cache" / "libraries").glob("*.a")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    third = execute(plan_compile(checkpoint, other, CompileSettings()), tmp_path / "third", Silent())
    assert third.files == second.files


def test_an_interrupted_build_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compile import library

    def interrupted(*arguments: object) -> None:
        Path(str(arguments[-1])).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(library, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(plan_compile(checkpoint, PARENT, CompileSettings()), tmp_path / "bundle", Silent())
    assert not (tmp_path / "bundle").exists()
    assert os.listdir(tmp_path / "cache" / "libraries") == []


def test_load_runner_gives_the_context_of_the_bundle(bundle: Path) -> None:
    assert load_runner(open_bundle(bundle), Silent()).context_size == 160


def test_a_cache_that_memory_does_not_hold_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    loaded = Library(opened.libraries[0][1], opened.params)
    monkeypatch.setattr(Library, "context_size", 2**45)
    with pytest.raises(ArtifactError, match=r"of 35,184,372,088,832 tokens do not fit into memory.*--context-size"):
        ExplicitRunner(loaded, 2**45)
