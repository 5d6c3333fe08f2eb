"""The user's machine, as far as it decides where files belong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """`system` is sys.platform's name of it."""

    system: str
    home: Path
    environment: Mapping[str, str]

    def folder(self, variable: str, *otherwise: str) -> Path:
        """A folder that the environment may name, and else one below the home folder."""
        named = self.environment.get(variable)
        return Path(named) if named else self.home.joinpath(*otherwise)

    @property
    def config(self) -> Path:
        return self.folder("XDG_CONFIG_HOME", ".config")


def this_machine() -> Machine:
    return Machine(sys.platform, Path.home(), os.environ)
