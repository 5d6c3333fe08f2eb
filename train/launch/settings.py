"""What starts the processes of a training, and how many: nothing heavy is loaded to decide that."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import at_least, field_types, flag

Launcher = Literal["local", "torchrun", "slurm", "skypilot"]
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})")


@dataclass(frozen=True)
class LaunchSettings:
    """What starts the processes, how many of them on each of how many machines, and where those come from."""

    launcher: Launcher = "local"
    """What starts the processes: local (this one alone), torchrun (on this machine), slurm or skypilot."""

    count: int = 1
    """Processes on each machine, one for each of its GPUs."""

    nodes: int = 1
    """Machines."""

    rendezvous: str | None = None
    """Where torchrun's --nodes machines meet, as HOST:PORT: an address of one of them and a free port there."""

    gpu: str | None = None
    """The GPU to rent with skypilot, by SkyPilot's name for it, such as A100-80GB."""

    install: str | None = None
    """What pip installs on skypilot's machines: a wheel or a clone of fimble in this folder, or a URL."""

    dry_run: bool = False
    """Print what would be started, and start nothing."""

    def __post_init__(self) -> None:
        at_least("--count", self.count, 1)
        at_least("--nodes", self.nodes, 1)
        if self.launcher == "local" and (self.count > 1 or self.nodes > 1):
            raise SettingsError("--launcher local is this process alone", "Add --launcher torchrun, slurm or skypilot.")
        self._check_rendezvous()
        if (self.gpu is not None) != (self.launcher == "skypilot"):
            raise SettingsError("--gpu names what --launcher skypilot rents", "Give both, or neither.")
        if (self.install is not None) != (self.launcher == "skypilot"):
            raise SettingsError(
                "--install says where the machines that --launcher skypilot rents get fimble from",
                "Give both, or neither; for a wheel of a clone: pip wheel --no-deps --wheel-dir . PATH_OF_THE_CLONE.",
            )

    def _check_rendezvous(self) -> None:
        meets = self.launcher == "torchrun" and self.nodes > 1
        if meets and self.rendezvous is None:
            raise SettingsError(
                f"--nodes {self.nodes} with --launcher torchrun needs --rendezvous, where the machines meet",
                "Give all of them the same HOST:PORT, an address of one of them.",
            )
        if self.rendezvous is not None and not meets:
            raise SettingsError("--rendezvous is for --launcher torchrun with --nodes above 1", "Leave it out.")
        found = ADDRESS.fullmatch(self.rendezvous) if self.rendezvous is not None else None
        if self.rendezvous is not None and not (found and 0 < int(found[2]) < 1 << 16):
            raise SettingsError(f"--rendezvous {self.rendezvous} is not HOST:PORT", "Write it like node1:29500.")

    @property
    def processes(self) -> int:
        """All of them, on all machines."""
        return self.count * self.nodes


def without_launching(arguments: Sequence[str]) -> list[str]:
    """A command line without the flags of launching, which a process that was launched is not to be given."""
    types = {flag(field.name): field_types(LaunchSettings)[field.name] for field in fields(LaunchSettings)}
    switches = {word for name, kind in types.items() if kind is bool for word in (name, f"--no-{name[2:]}")}
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, given, _ = word.partition("=")
        if name in types and name not in switches and not given:
            next(words, None)
        elif name not in (*types, *switches):
            kept.append(word)
    return kept


def refuse_alone(name: str, count: int, settings: LaunchSettings) -> None:
    """Raise SettingsError for a preset of `count` GPUs that would run in one process."""
    if count > 1 and settings.launcher == "local" and os.environ.get("WORLD_SIZE", "1") == "1":
        raise SettingsError(f"the preset {name} is for {count} GPUs", f"Add --launcher torchrun --count {count}.")
