"""What is to be run, and what a system needs for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toolchain.contracts.errors import SettingsError


@dataclass(frozen=True)
class Service:
    """`command` is the program, by its whole path, and its arguments; `folder` where it runs.

    `secrets` are variables of the environment that are set for it, and that no command line may show.
    """

    command: tuple[str, ...]
    folder: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for text in (*self.command, str(self.folder)):
            if not text.isprintable():  # neither control characters nor bytes that are no text
                raise SettingsError(f"{text!r} has characters that no service can be given", "Rename that folder.")


@dataclass(frozen=True)
class Setup:
    """The service's `file` and its `content`; commands for a shell that turn it on, tell of it and turn it off.

    `keys` says where the secrets are kept, and `key_file` is that file where it is one.
    """

    file: Path
    content: bytes
    text: str
    on: tuple[str, ...]
    look: str
    off: tuple[str, ...]
    keys: str
    key_file: Path | None = None


def environment_file(secrets: Mapping[str, str]) -> bytes:
    """Variables as systemd and shells both read them."""
    quoted = {name: "".join(f"\\{sign}" if sign in '\\"`$' else sign for sign in key) for name, key in secrets.items()}
    return "".join(f'{name}="{key}"\n' for name, key in quoted.items()).encode()
