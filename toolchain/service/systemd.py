"""A user unit for systemd, as systemd.service(5), systemd.exec(5) and systemd.syntax(7) describe it."""

from __future__ import annotations

import glob
from pathlib import Path

from toolchain.contracts.errors import SettingsError
from toolchain.machine import Machine
from toolchain.service.service import Service, Setup

UNIT = "fimble.service"
REFUSED = "'\"\\"
"""Characters that systemd takes in arguments, and not in the path of a program."""


def setup(service: Service, machine: Machine) -> Setup:
    """The unit. An exit code of 2 says that a setting is wrong, which starting again does not mend."""
    keys = machine.config / "fimble" / "fimble.env"
    file = machine.config / "systemd" / "user" / UNIT
    command = service.command
    if set(command[0]) & set(REFUSED):
        command = ("/bin/sh", "-c", 'exec "$0" "$@"', *command)
    # The colon keeps systemd from putting variables in for $NAME.
    text = f"""\
[Unit]
Description=Fimble, code completions on this machine

[Service]
ExecStart=:{" ".join(map(quote, command))}
WorkingDirectory={_path(service.folder)}
EnvironmentFile=-{_path(Path(glob.escape(str(keys))))}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2

[Install]
WantedBy=default.target
"""
    return Setup(
        file=file,
        content=text.encode(),
        text=text,
        on=("systemctl --user daemon-reload", f"systemctl --user enable --now {UNIT}"),
        look=f"journalctl --user --unit {UNIT} --follow",
        off=(f"systemctl --user disable --now {UNIT}",),
        keys=f"{keys}, which must be yours alone (mode 600)",
        key_file=keys,
    )


def quote(word: str) -> str:
    """A word of a command, in quotes, without specifiers such as %h."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _path(path: Path) -> str:
    """A path that takes up the rest of a line, where nothing is quoted."""
    text = str(path)
    if text != text.strip() or text.endswith("\\"):
        raise SettingsError(f"systemd cannot be given '{text}', for its last character", "Rename that folder.")
    return text.replace("%", "%%")
