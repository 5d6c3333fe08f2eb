"""The server runs where only its own extra is installed, and starts without waiting for what it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = textwrap.dedent(
    """
    import importlib, pkgutil, sys

    class Blocked:
        names = {"torch", "transformers", "peft", "datasets", "train", "compile", "tvm", "huggingface_hub"}

        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in self.names:
                raise ImportError(f"{name} is not for the server")

    sys.meta_path.insert(0, Blocked())
    import serve
    for module in pkgutil.walk_packages(serve.__path__, "serve."):
        importlib.import_module(module.name)
        print(module.name)
    """
)


def test_every_module_of_serve_imports_without_the_other_stages() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in (ROOT / "serve").rglob("*.py") if path != ROOT / "serve/__init__.py"]
    assert len(done.stdout.split()) == len(files)
