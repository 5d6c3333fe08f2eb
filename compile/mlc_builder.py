"""Libraries made by mlc_llm's own compiler, for its own engine, which `fimble serve` runs such a bundle with.

mlc_llm runs in a process of its own and takes from the bundle's `params` what it would take from one of its own
folders. The command line is that of `mlc_llm compile`: https://llm.mlc.ai/docs/compilation/compile_models.html
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from compile import devices
from compile.schemes import Scheme
from toolchain.contracts import mlc_package, tvm_package
from toolchain.contracts.errors import SettingsError, StageError
from toolchain.contracts.targets import Target, this_system

SCHEMES = ("q4f16_1", "q4f32_1", "q0f16", "q0f32")
EXTENSIONS = {"linux": "so", "macos": "dylib", "windows": "dll"}


def check(targets: list[Target], scheme: Scheme) -> None:
    """Raise MissingExtra without mlc_llm, SettingsError for a scheme or a system that it cannot build for."""
    mlc_package.find()
    if scheme.name not in SCHEMES:
        raise SettingsError(f"mlc_llm does not know the scheme {scheme.name}", f"Use one of: {', '.join(SCHEMES)}.")
    for target in targets:
        if target.system != this_system():
            raise SettingsError(
                f"mlc_llm links with this machine's compiler and cannot build for {target.system}",
                "Compile there, or leave --builder out.",
            )


def key(chat_config: Path, target: Target) -> str:
    """The hash of everything that decides such a library's content, among them all of `mlc-chat-config.json`."""
    content = [chat_config.read_text(encoding="utf-8"), devices.description(target), target.archs]
    versions = [mlc_package.find().version, tvm_package.find().version]
    return hashlib.sha256(json.dumps([content, versions], sort_keys=True).encode()).hexdigest()


def build(params: Path, target: Target, out: Path) -> None:
    """Have mlc_llm compile the model whose `mlc-chat-config.json` lies in `params`, to the shared library `out`.

    Raises StageError with the last line of what it says when it fails.
    """
    line = [sys.executable, "-P", "-m", "mlc_llm", "compile", str(params)]
    options = ["--device", json.dumps(devices.description(target)), "--output", str(out)]
    # Without this mlc_llm builds for the one architecture that the description names.
    archs = {"MLC_MULTI_ARCH": ",".join(arch.removeprefix("sm_") for arch in target.archs)} if target.archs else {}
    done = subprocess.run([*line, *options], capture_output=True, text=True, env=os.environ | archs, check=False)
    if done.returncode or not out.is_file():
        words = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        last = next((word for word in reversed(words) if "Error" in word), words[-1] if words else "it said nothing")
        raise StageError(
            f"mlc_llm could not compile for {target.name}: {last[:500]}",
            f"Leave --builder out, or see for yourself: python {' '.join(line[2:])} ...",
        )
