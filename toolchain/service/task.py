"""A task for Windows' Task Scheduler, in its schema 1.2 (http://schemas.microsoft.com/windows/2004/02/mit/task)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from xml.etree import ElementTree

from toolchain.contracts.errors import SettingsError
from toolchain.machine import Machine
from toolchain.service.service import Service, Setup

SCHEMA = "http://schemas.microsoft.com/windows/2004/02/mit/task"
NAME = "Fimble"
Tree = Mapping[str, "Tree | str"]


def setup(service: Service, machine: Machine) -> Setup:
    """The task, which is the user's own: it needs no administrator, and runs while the user is logged in."""
    for text in (*service.command, str(service.folder)):
        if "%" in text or "$(" in text:
            raise SettingsError(f"Windows would put variables into '{text}'", "Rename that folder.")
    user = machine.environment.get("USERNAME", machine.home.name)
    domain = machine.environment.get("USERDOMAIN")
    user = f"{domain}\\{user}" if domain else user
    program, *arguments = service.command
    tree: Tree = {
        "RegistrationInfo": {"Description": "Fimble, code completions on this machine"},
        "Triggers": {"LogonTrigger": {"Enabled": "true", "UserId": user}},
        "Principals": {
            "Principal": {"UserId": user, "LogonType": "InteractiveToken", "RunLevel": "LeastPrivilege"},
        },
        "Settings": {
            "MultipleInstancesPolicy": "IgnoreNew",
            "DisallowStartIfOnBatteries": "false",
            "StopIfGoingOnBatteries": "false",
            "ExecutionTimeLimit": "PT0S",
            "RestartOnFailure": {"Interval": "PT1M", "Count": "3"},
        },
        "Actions": {
            "Exec": {
                "Command": program,
                "Arguments": subprocess.list2cmdline(arguments),
                "WorkingDirectory": str(service.folder),
            }
        },
    }
    root = ElementTree.Element("Task", {"version": "1.2", "xmlns": SCHEMA})
    _build(root, tree)
    root[2][0].set("id", "Author")
    root[4].set("Context", "Author")
    ElementTree.indent(root)
    text = '<?xml version="1.0" encoding="UTF-16"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    file = machine.folder("LOCALAPPDATA", "AppData", "Local") / "fimble" / "fimble-task.xml"
    return Setup(
        file=file,
        content=text.encode("utf-16"),  # with the mark that schtasks looks for
        text=text,
        on=(f'schtasks /Create /F /TN {NAME} /XML "{file}"', f"schtasks /Run /TN {NAME}"),
        look=f"schtasks /Query /V /FO LIST /TN {NAME}",
        off=(f"schtasks /End /TN {NAME}", f"schtasks /Delete /F /TN {NAME}"),
        keys="your own environment variables (Settings > Environment variables for your account)",
    )


def _build(above: ElementTree.Element, tree: Tree) -> None:
    for name, value in tree.items():
        element = ElementTree.SubElement(above, name)
        if isinstance(value, str):
            element.text = value
        else:
            _build(element, value)
