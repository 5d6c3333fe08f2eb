"""A service made for one system, put into place, and told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.machine import Machine, this_machine
from toolchain.replacing import Replaced, replace
from toolchain.service import launchd, systemd, task
from toolchain.service.service import Service, Setup, environment_file

SYSTEMS: dict[str, Callable[[Service, Machine], Setup]] = {
    "linux": systemd.setup,
    "macos": launchd.setup,
    "windows": task.setup,
}


def this_system() -> str:
    return {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


def program() -> tuple[str, ...]:
    """What runs fimble, as this process does, by its whole path."""
    script = Path(sys.executable).with_name("fimble.exe" if sys.platform == "win32" else "fimble")
    return (str(script),) if script.is_file() else (sys.executable, "-P", "-m", "toolchain.cli")


def make(system: str, service: Service) -> Setup:
    return SYSTEMS[system](service, this_machine())


def put(setup: Setup, secrets: Mapping[str, str]) -> list[Replaced]:
    """Write the service's file; before it the keys, where there are some and the system reads them from a file."""
    written = []
    if secrets and setup.key_file:
        written.append(replace(setup.key_file, environment_file(secrets), private=True))
        setup.key_file.chmod(0o600)
    return [*written, replace(setup.file, setup.content)]


def facts(system: str, service: Service, setup: Setup, written: Sequence[Replaced]) -> dict[str, Any]:
    return {
        "system": system,
        "file": str(setup.file),
        "text": setup.text,
        "command": list(service.command),
        "on": list(setup.on),
        "look": setup.look,
        "off": list(setup.off),
        "key_file": str(setup.key_file) if setup.key_file else None,
        "written": [done.to_json() for done in written],
    }


def lines(system: str, service: Service, setup: Setup, written: Sequence[Replaced]) -> list[str]:
    """The service for people: its file, or that it was written, and the commands that go with it."""
    elsewhere = "" if system == this_system() else ", with this machine's paths"
    told = [done.told() for done in written] or [f"{setup.file}{elsewhere}:", setup.text]
    told += ["To turn it on:", *(f"  {line}" for line in setup.on)]
    told += ["To see what it does:", f"  {setup.look}", "To turn it off:", *(f"  {line}" for line in setup.off)]
    if setup.key_file not in [done.file for done in written]:
        names = " and ".join(service.secrets) or "FIMBLE_API_KEY"
        told.append(f"A key belongs, as {names}, in {setup.keys}.")
    return told
