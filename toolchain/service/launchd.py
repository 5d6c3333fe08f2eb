"""A launch agent for macOS, as launchd.plist(5) describes it."""

from __future__ import annotations

import plistlib
import shlex

from toolchain.machine import Machine
from toolchain.service.service import Service, Setup

LABEL = "fimble.serve"
RUN = 'set -a; [ -f "$0" ] && . "$0"; exec "$@"'
"""A property list is no place for a key, so a shell reads it from a file, and is then replaced by the server."""


def setup(service: Service, machine: Machine) -> Setup:
    """The agent. `Interactive` because launchd slows down what it takes for background work."""
    keys = machine.config / "fimble" / "fimble.env"
    file = machine.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = machine.home / "Library" / "Logs" / "fimble.log"
    content = plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": ["/bin/sh", "-c", RUN, str(keys), *service.command],
            "WorkingDirectory": str(service.folder),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ProcessType": "Interactive",
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        },
        sort_keys=False,
    )
    return Setup(
        file=file,
        content=content,
        text=content.decode(),
        on=(f"launchctl bootstrap gui/$(id -u) {shlex.quote(str(file))}",),
        look=f"tail -f {shlex.quote(str(log))}",
        off=(f"launchctl bootout gui/$(id -u)/{LABEL}",),
        keys=f"{keys}, which must be yours alone (mode 600)",
        key_file=keys,
    )
