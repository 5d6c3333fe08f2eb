"""Libraries for arm64-linux, run: by an arm64 Python, which elsewhere an emulator runs (docs/development.md)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from compile.bundle import plan_compile
from compile.settings import CompileSettings
from serve.bundle import load_runner, open_bundle
from serve.engine.runner import Runner
from tests.compile.conftest import PARENT, CheckpointOf
from tests.compile.families import CONTEXT, VARIANTS, VOCABULARY
from toolchain.contracts import manifest, processors, targets
from toolchain.contracts.cache_folder import VARIABLE
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute

pytestmark = [pytest.mark.slow, pytest.mark.compile]
PYTHON, PATH = "FIMBLE_ARM64_PYTHON", "FIMBLE_ARM64_PATH"
ROOT = Path(__file__).parents[2]
TARGET = "arm64-linux"
# From one token to many, from an empty cache and from a filled one, and then one by one: (position, number of tokens).
CALLS = [(0, 1), (0, 7), (7, 2), (9, 1), (10, 100), *((at, 1) for at in range(110, 120))]
LOGITS = """
import json, sys
from pathlib import Path
import numpy as np
from serve.bundle import load_runner, open_bundle
from toolchain.contracts.progress import Silent
bundle = open_bundle(Path(sys.argv[1]))
runner = load_runner(bundle, Silent())
np.save(sys.argv[2], [runner.forward(ids, position) for position, ids in json.loads(sys.argv[3])])
print(*(target.name for target, _ in bundle.libraries))
"""
PROOF = """
import sys
from pathlib import Path
from serve import proof
from serve.engine.loading import load
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.targets import parse_target
bundle, library = Path(sys.argv[1]), Path(sys.argv[2])
try:
    proof.check_library(bundle, parse_target(sys.argv[3]), load(library, bundle / "params"))
except ArtifactError as error:
    print(error)
"""
Arm64 = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def arm64(tmp_path: Path) -> Arm64:
    """Run the arm64 Python with arguments, in a cache of its own."""
    command = shlex.split(os.environ.get(PYTHON, ""))
    if not command:
        pytest.skip(f"needs {PYTHON}, the command of an arm64 Python; docs/development.md says how to get one")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get(PATH, ""))))
    told = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", VARIABLE: str(tmp_path / "arm64-cache")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "-P", *arguments], env=os.environ | told, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def bundle_of(
    checkpoint_of: CheckpointOf, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Sequence[str]], Path]:
    made: dict[tuple[str, ...], Path] = {}

    def make(variant: str, names: Sequence[str]) -> Path:
        key = (variant, *names)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("bundles") / "bundle"
            plan = plan_compile(checkpoint_of(variant), PARENT, CompileSettings(target=tuple(names)))
            execute(plan, made[key], Silent())
        return made[key]

    return make


def elsewhere() -> None:
    if not targets.unfit(targets.parse_target(TARGET)):
        pytest.skip(f"this machine runs {TARGET} itself: there is no other library to hold it against")


@pytest.mark.parametrize("variant", VARIANTS)
def test_computes_what_it_computes_here(
    variant: str, arm64: Arm64, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """`load_runner` also holds the library against the bundle's reference."""
    elsewhere()
    bundle = bundle_of(variant, ("cpu", TARGET))
    ids = [int(token) for token in np.random.default_rng(1).integers(5, VOCABULARY, CONTEXT)]
    calls = [(position, ids[position : position + count]) for position, count in CALLS]
    found = arm64("-c", LOGITS, str(bundle), str(tmp_path / "logits.npy"), json.dumps(calls))
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [TARGET]
    runner: Runner = load_runner(open_bundle(bundle), Silent())
    wanted = np.stack([runner.forward(tokens, position) for position, tokens in calls])
    logits = np.load(tmp_path / "logits.npy")
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_completes(arm64: Arm64, bundle_of: Callable[..., Path]) -> None:
    found = arm64(
        "-m", "toolchain.cli", "complete", str(bundle_of("gpt_bigcode", ("cpu", TARGET))), "--prefix", "def f("
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


def test_the_proof_finds_wrong_code(arm64: Arm64, bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """With additions turned into subtractions, so that the tests above are known to run this very code."""
    bundle = bundle_of("gpt_bigcode", ("cpu", TARGET))
    right = bundle / manifest.read(bundle).facts["targets"][TARGET]
    words = np.frombuffer(right.read_bytes()[: right.stat().st_size // 4 * 4], "<u4").copy()
    fmla = np.flatnonzero(words & 0xFFE0FC00 == 0x4E20CC00)  # of four float32
    assert len(fmla) > 40
    words[fmla[:40]] |= 0x00800000  # fmls
    wrong = tmp_path / "wrong.a"
    wrong.write_bytes(words.tobytes() + right.read_bytes()[words.nbytes :])
    refused = arm64("-c", PROOF, str(bundle), str(wrong), TARGET)
    assert refused.returncode == 0, refused.stderr
    assert "computes something else than its model" in refused.stdout
    passed = arm64("-c", PROOF, str(bundle), str(right), TARGET)
    assert (passed.returncode, passed.stdout) == (0, ""), passed.stderr


def test_each_machine_refuses_what_is_only_for_the_other(arm64: Arm64, bundle_of: Callable[..., Path]) -> None:
    elsewhere()
    here = processors.machine()
    with pytest.raises(ArtifactError, match=f"arm64-linux: it is for arm64, and this machine is {here}"):
        open_bundle(bundle_of("gpt_bigcode", (TARGET,)))
    found = arm64("-m", "toolchain.cli", "complete", str(bundle_of("gpt_bigcode", ("cpu",))), "--prefix", "def f(")
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"it is for {here}, and this machine is arm64" in line
