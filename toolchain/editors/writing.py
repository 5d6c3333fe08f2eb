"""Writing an editor's settings: a backup beside the file first, then all of it at once or nothing."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from toolchain.contracts.editors.catalogue import Editor
from toolchain.contracts.editors.served import Served
from toolchain.contracts.errors import SettingsError
from toolchain.editors.broken import Broken
from toolchain.editors.merging import merge

NAMES = {"json": "JSON", "yaml": "YAML", "toml": "TOML"}


@dataclass(frozen=True)
class Written:
    """What became of a settings file; `backup` holds what it was before."""

    file: Path
    changed: bool
    backup: Path | None


def write(editor: Editor, served: Served, file: Path) -> Written:
    """Put the editor's settings into `file`, which is made where there is none.

    Raises SettingsError, with line and column, for a file that is not of its form; it stays as it is then.
    """
    before = _read(file)
    made = editor.make(served)
    try:
        after = made if isinstance(made, str) else merge(editor.form, before or "", made)
    except Broken as error:
        where = f"{file}, line {error.line}, column {error.column}"
        next_step = "Mend it, or leave --write out and paste the settings."
        raise SettingsError(
            f"{where}: not {NAMES[editor.form]} that can be added to: {error.problem}", next_step
        ) from None
    if after == before:
        return Written(file, False, None)
    file.parent.mkdir(parents=True, exist_ok=True)
    backup = None if before is None else _back_up(file)
    _write(file, after.encode(), secret=served.key is not None)
    return Written(file, True, backup)


def _read(file: Path) -> str | None:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not text in UTF-8", "Save it as UTF-8 first.") from None


def _back_up(file: Path) -> Path:
    """A copy beside the file, named with the moment, for whoever may read the file."""
    moment = f"{datetime.now():%Y-%m-%dT%H%M%S}"
    number = 0
    while True:
        backup = file.with_name(f"{file.name}.{moment}{f'-{number}' if number else ''}.bak")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(file.stat().st_mode))
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(handle, "wb") as stream:
            stream.write(file.read_bytes())
        return backup


def _write(file: Path, content: bytes, secret: bool) -> None:
    """Through a temporary file beside it. A link stays one; a fresh file with a key in it is its owner's alone."""
    file = file.resolve()
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600 if secret else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
