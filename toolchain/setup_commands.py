"""The commands that set up the user's machine: the settings of editors, and the server as a service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from serve.settings import ServeSettings
from toolchain.command_line import Json, read_tables, show
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import FILE, check, choose, find_file, suggest
from toolchain.options import VARIABLES, command_line, with_options

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on that are none to ask at, and this machine's own."""
NAMES = "vscode, neovim, jetbrains, continue, zed, llama.vscode, llama.vim or tabby."
Served = Annotated[Path, typer.Argument(help="A bundle, or the workspace of up.")]


def editor_command(
    name: Annotated[str, typer.Argument(metavar="EDITOR", help=NAMES)],
    bundle: Served = Path(".fimble"),
    url: Annotated[
        str | None, typer.Option("--url", help="The server's address [default: where serve listens].")
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="The key to put among the settings.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put them into the editor's own file.")] = False,
    file: Annotated[Path | None, typer.Option("--file", help="The file, where it is not where it usually is.")] = None,
    as_json: Json = False,
) -> None:
    """Settings that point an editor at the server: printed, or with --write put into place."""
    from toolchain.contracts.editors.catalogue import EDITORS
    from toolchain.contracts.editors.forms import nested
    from toolchain.editors import places, telling
    from toolchain.editors.writing import write as write_settings
    from toolchain.machine import this_machine

    if name not in EDITORS:
        raise SettingsError(f"there are no settings for '{name}'", suggest(name, EDITORS))
    editor = EDITORS[name]
    served = telling.served(_address(url), bundle, api_key)
    known = places.settings_files(name, this_machine())
    files = [file.absolute()] if file else places.existing(known, name)
    if write and known and not files:
        looked = " or ".join(map(str, known[:2]))
        raise SettingsError(
            f"{editor.title} has no settings here, such as {looked}",
            "Start it once or make that folder, or give --file.",
        )
    written = write_settings(editor, served, files) if write and known else []
    made = editor.make(served)
    facts: dict[str, Any] = {
        "editor": name,
        "url": served.url,
        "text": editor.text(served),
        "settings": None if isinstance(made, str) else nested(made),
        "files": [str(found) for found in files],
        "load": [line for found in files if (line := telling.load_line(editor, found))],
        "written": [done.to_json() for done in written],
    }
    told = telling.lines(editor, served, files, written)
    if write and not known:
        told.append("Nothing was written: there is no file of settings that a program other than the IDE may change.")
    show(as_json, facts, told)


@with_options(ServeSettings)
def service_command(
    bundle: Served = Path(".fimble"),
    system: Annotated[str | None, typer.Option("--system", help="linux, macos, windows; else this one's.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the file where the system looks for it.")] = False,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """A service that runs fimble serve at login: its file, and the commands that turn it on."""
    from toolchain.editors import telling
    from toolchain.service import making
    from toolchain.service.service import Service

    system = system or making.this_system()
    check("--system", system, system in making.SYSTEMS, f"one of: {', '.join(making.SYSTEMS)}")
    if write and system != making.this_system():
        raise SettingsError(f"a service for {system} cannot be put into place here", "Leave --write out.")
    serving = choose(ServeSettings, "serve", read_tables(), flags)
    check("--port", serving.port, serving.port != 0, "a port that stays the same")
    telling.served("", bundle)  # a folder that cannot be served is told now
    secrets = {variable: flags[name] for name, variable in VARIABLES.items() if flags.get(name)}
    shown = {name: value for name, value in flags.items() if name not in VARIABLES and value is not None}
    file = find_file(Path.cwd())
    command = (*making.program(), "serve", str(bundle.absolute()), *command_line(shown))
    service = Service(command, file.absolute().parent if file else Path.home(), secrets)
    made = making.make(system, service)
    written = making.put(made, secrets) if write else []
    told = making.lines(system, service, made, written)
    show(as_json, making.facts(system, service, made, written), told)


def _address(url: str | None) -> str:
    """Where the server answers: as given, or as `fimble serve` would listen in this folder."""
    from serve.http.port import address

    if url is not None:
        check("--url", url, re.match(r"https?://[^/\s]+(/\S*)?$", url) is not None, "http://HOST:PORT")
        return url.rstrip("/")
    serving = choose(ServeSettings, "serve", read_tables(), {})
    if serving.port == 0:
        raise SettingsError(f"port 0 in {FILE} takes any free port", "Give the server's --url.")
    return address(ANYWHERE.get(serving.host, serving.host), serving.port)
