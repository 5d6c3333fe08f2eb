"""Writing an editor's settings into its own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolchain.contracts.editors.catalogue import Editor
from toolchain.contracts.editors.served import Served
from toolchain.contracts.errors import SettingsError
from toolchain.editors.broken import Broken
from toolchain.editors.merging import merge
from toolchain.replacing import Replaced, replace

NAMES = {"json": "JSON", "yaml": "YAML", "toml": "TOML"}


def write(editor: Editor, served: Served, files: Sequence[Path]) -> list[Replaced]:
    """Put the editor's settings into each of the `files`, which are made where there are none.

    Raises SettingsError, with line and column, where one is not of the editor's form; all stay as they are then.
    """
    merged = [(file, _merged(editor, served, file).encode()) for file in files]
    return [replace(file, content, private=served.key is not None) for file, content in merged]


def _merged(editor: Editor, served: Served, file: Path) -> str:
    made = editor.make(served)
    try:
        return made if isinstance(made, str) else merge(editor.form, _read(file), made)
    except Broken as error:
        where = f"{file}, line {error.line}, column {error.column}"
        problem = f"{where}: not {NAMES[editor.form]} that can be added to: {error.problem}"
        raise SettingsError(problem, "Mend it, or leave --write out and paste the settings.") from None


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not text in UTF-8", "Save it as UTF-8 first.") from None
