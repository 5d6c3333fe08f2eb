"""Writing an editor's settings into its own file."""

from __future__ import annotations

from pathlib import Path

from toolchain.contracts.editors.catalogue import Editor
from toolchain.contracts.editors.served import Served
from toolchain.contracts.errors import SettingsError
from toolchain.editors.broken import Broken
from toolchain.editors.merging import merge
from toolchain.replacing import Replaced, replace

NAMES = {"json": "JSON", "yaml": "YAML", "toml": "TOML"}


def write(editor: Editor, served: Served, file: Path) -> Replaced:
    """Put the editor's settings into `file`, which is made where there is none.

    Raises SettingsError, with line and column, for a file that is not of its form; it stays as it is then.
    """
    made = editor.make(served)
    try:
        after = made if isinstance(made, str) else merge(editor.form, _read(file), made)
    except Broken as error:
        where = f"{file}, line {error.line}, column {error.column}"
        problem = f"{where}: not {NAMES[editor.form]} that can be added to: {error.problem}"
        raise SettingsError(problem, "Mend it, or leave --write out and paste the settings.") from None
    return replace(file, after.encode(), private=served.key is not None)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not text in UTF-8", "Save it as UTF-8 first.") from None
