"""Without any network a checkpoint compiles, and its bundle serves this machine's editors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.airplane import GUARD

pytestmark = [pytest.mark.train, pytest.mark.compile]

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.train.tiny import write_base

    return write_base(tmp_path_factory.mktemp("models") / "tiny")


def fly(command: list[str], checkpoint: Path, folder: Path, **environment: str) -> dict[str, Any]:
    """The report of a flight in a process that starts with `command`; nothing is cached from before it."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    line = [*command, sys.executable, "-P", "-m", "tests.toolchain.airplane", str(checkpoint), str(folder / "bundle")]
    own = {
        "FIMBLE_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    done = subprocess.run(line, env=known | own, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def assert_served(report: dict[str, Any]) -> None:
    assert report["made"]
    assert report["code"] == 0
    assert isinstance(report["replies"]["tgi"]["generated_text"], str)
    assert report["replies"]["openai"]["usage"]["completion_tokens"] >= 1
    assert report["replies"]["llama.cpp"]["stop"]


def test_in_a_network_namespace_without_routes(checkpoint: Path, tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make network namespaces")
    report = fly(UNSHARE, checkpoint, tmp_path, AIRPLANE_NAMESPACE="1")
    assert report["interfaces"] == ["lo"]
    assert_served(report)


def test_not_even_a_name_is_looked_up(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    log = tmp_path / "log"
    guarded = {"PYTHONPATH": f"{tmp_path / 'guard'}{os.pathsep}{ROOT}", "AIRPLANE_LOG": str(log)}
    assert_served(fly([], checkpoint, tmp_path, **guarded))
    assert not log.exists() or log.read_text() == ""
    assert len(list(tmp_path.glob("log.*"))) >= 3  # the flight, compiling and serving
    # The guard does refuse: this asks for a name that cannot exist.
    ask = "import socket; socket.getaddrinfo('fimble.invalid', 80)"
    done = subprocess.run(
        [sys.executable, "-c", ask], env=os.environ | guarded, capture_output=True, text=True, check=False
    )
    assert "no network here" in done.stderr
    assert log.read_text() == "socket.getaddrinfo 'fimble.invalid'\n"
