"""Which run a work folder belongs to: the states of one are neither resumed nor lost by another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.manifest import hash_json, write_text

RUN = "run.json"


@dataclass(frozen=True)
class Identity:
    """What a run is: the key of what it makes, and what of that a person would recognise."""

    key: str
    parents: dict[str, str]
    settings: dict[str, Any]
    processes: int

    def difference(self, other: Identity) -> str | None:
        """What a run of `other` does otherwise, in words."""
        for role, digest in self.parents.items():
            if other.parents.get(role) != digest:
                return f"had another {role} ({str(other.parents.get(role))[:12]}, not {digest[:12]})"
        if other.processes != self.processes:
            return f"ran in {other.processes} processes, not {self.processes}"
        for name, value in self.settings.items():
            if other.settings.get(name) != value:
                return f"had {name} {other.settings.get(name)}, not {value}"
        return "was made by another version of fimble" if other.key != self.key else None


def claim(work: Path, run: Identity, has_states: bool) -> None:
    """Write down that the folder `work` is that of `run`.

    Raises SettingsError where it has states of another run, or of one that nobody knows.
    """
    known = work / RUN
    if has_states:
        try:
            difference = run.difference(_read(known))
        except (OSError, ValueError, TypeError, KeyError):
            damage = "is damaged" if known.is_file() else "is missing"
            problem = f"{known} {damage}, so that nobody knows what run was interrupted here"
            raise SettingsError(problem, f"Remove {work} to start anew.") from None
        if difference:
            raise SettingsError(
                f"the run that was interrupted here {difference}",
                f"Give it what it had, to go on; or remove {work}, to start anew.",
            )
    work.mkdir(parents=True, exist_ok=True)
    write_text(known, json.dumps({"run": vars(run), "sha256": hash_json(vars(run))}))


def _read(path: Path) -> Identity:
    """Raises OSError, or ValueError, TypeError or KeyError for what was not written here."""
    content = json.loads(path.read_bytes())
    if hash_json(content["run"]) != content["sha256"]:
        raise ValueError
    return Identity(**content["run"])
