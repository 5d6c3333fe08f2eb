"""Where editors keep their settings, by operating system."""

from __future__ import annotations

from pathlib import Path

from toolchain.machine import Machine

VSCODES = {"Code": "com.visualstudio.code", "Code - Insiders": "", "VSCodium": "com.vscodium.codium", "Code - OSS": ""}
"""VS Code and its builds, by the folder of each and its name as a Flatpak."""


def settings_files(editor: str, machine: Machine) -> list[Path]:
    """The files that an editor's settings may be in, whether they are there or not; none where it has none."""
    windows = machine.system == "win32"
    match editor:
        case "vscode" | "llama.vscode":
            return [base / "User" / "settings.json" for base in _vscodes(machine)]
        case "zed":
            if windows:
                return [machine.folder("APPDATA", "AppData", "Roaming") / "Zed" / "settings.json"]
            below = Path("zed", "settings.json")
            if machine.system == "darwin":
                return [machine.home / ".config" / below]
            return [machine.config / below, machine.home / ".var/app/dev.zed.Zed/config" / below]
        case "continue":
            return [machine.folder("CONTINUE_GLOBAL_DIR", ".continue") / "config.yaml"]
        case "tabby":
            return [machine.home / ".tabby-client" / "agent" / "config.toml"]
        case "neovim":
            return [_neovim(machine) / "fimble.lua"]
        case "llama.vim":
            vim = machine.home / ("vimfiles" if windows else ".vim")
            return [vim / "fimble.vim", _neovim(machine) / "fimble.vim"]
        case _:
            return []


def existing(files: list[Path], editor: str) -> list[Path]:
    """Those that their editor reads: it has made the folder."""
    own = {"vscode": 2, "llama.vscode": 2}  # VS Code's own folder is the one above User
    return [file for file in files if file.parents[own.get(editor, 1) - 1].is_dir()]


def _neovim(machine: Machine) -> Path:
    windows = machine.system == "win32"
    base = machine.folder("LOCALAPPDATA", "AppData", "Local") if windows else machine.config
    return base / machine.environment.get("NVIM_APPNAME", "nvim")


def _vscodes(machine: Machine) -> list[Path]:
    if machine.system == "win32":
        return [machine.folder("APPDATA", "AppData", "Roaming") / name for name in VSCODES]
    if machine.system == "darwin":
        return [machine.home / "Library" / "Application Support" / name for name in VSCODES]
    packed = [machine.home / ".var/app" / id / "config" / name for name, id in VSCODES.items() if id]
    return [*(machine.config / name for name in VSCODES), *packed]
