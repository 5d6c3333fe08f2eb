"""What `make` hands on to the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def test_a_repository_may_have_any_name(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    fimble = tmp_path / ".venv" / "bin" / "fimble"
    fimble.parent.mkdir(parents=True)
    fimble.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    fimble.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    name = '/tmp/a wéird "repo" `of` someone\'s'
    line = ["make", "--silent", "demo", f"REPO={name}"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["demo", name]
