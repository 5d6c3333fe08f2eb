"""The settings of a bundle's server, for people and programs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.backends.source import open_source
from toolchain.contracts import manifest
from toolchain.contracts.editors.catalogue import EDITORS, Editor
from toolchain.contracts.editors.forms import nested
from toolchain.contracts.editors.scripts import lua, vim_text
from toolchain.contracts.editors.served import Served
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.fim import FimSpec
from toolchain.replacing import Replaced
from toolchain.workspace import named_artifact


def served(url: str, named: Path, key: str | None = None) -> Served:
    """What editors have to know of the folder that the user named: a bundle, its workspace, or an upstream's model.

    The tokenizer's path goes through the workspace where it can, so that the settings outlive this bundle.
    """
    folder = named_artifact(named)
    if not folder.exists():
        raise ArtifactError(f"{folder} does not exist", "Name a bundle, or the workspace of up.")
    if not manifest.is_whole(folder) or manifest.read(folder).kind != "bundle":
        source = open_source(folder, None)
        return Served(url, source.params / "tokenizer.json", source.spec, source.context_size, source.name, key)
    facts = manifest.read(folder, "bundle").facts
    below = Path("params") / "tokenizer.json"
    lasting = named.absolute() / "current" / below
    tokenizer = lasting if lasting.is_file() else folder.resolve() / below
    spec = FimSpec(**facts["fim"])
    return Served(url, tokenizer, spec, int(facts["context_size"]), str(facts["name"]), key)


def vscode_settings(served: Served) -> dict[str, Any]:
    made = EDITORS["vscode"].make(served)
    assert not isinstance(made, str)
    return nested(made)


def short_lines(vscode: Mapping[str, Any], named: Path, url: str | None = None) -> list[str]:
    """VS Code's settings for people, and how to get the others'; `url` where the server does not listen as usual."""
    others = ", ".join(name for name in EDITORS if name != "vscode")
    command = shlex.join(["fimble", "editor", "NAME", str(named), *(["--url", url] if url else [])])
    told = f"Other editors: {command}, with {others}; --write puts settings into place."
    return [_heading(EDITORS["vscode"]), json.dumps(vscode, indent=2), told]


def lines(editor: Editor, served: Served, files: Sequence[Path], written: Sequence[Replaced]) -> list[str]:
    """An editor's settings for people, where they go, and what was written."""
    text = editor.text(served).rstrip("\n")
    told = [_heading(editor), text]
    if served.key is None:
        told.append(f"Where the server asks for an API key: {editor.key}.")
    elif served.key not in text:
        told.append(f"The API key is not part of these settings: {editor.key}.")
    for file in files:
        if load := load_line(editor, file):
            told.append(f"To load {file}, put this into {editor.where}: {load}")
    told += [done.told() for done in written]
    return told


def load_line(editor: Editor, file: Path) -> str | None:
    """What has the user's own configuration load a script of ours; None where the editor needs no such line."""
    match editor.form:
        case "lua":
            return f"dofile({lua(str(file))})"
        case "vim":
            return "execute 'source' fnameescape(" + vim_text(str(file)) + ")"
        case _:
            return None


def _heading(editor: Editor) -> str:
    return f"For {editor.title}, in {editor.where}:"
