"""The editors, or rather the extensions in them, for which there are settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.editors import settings
from toolchain.contracts.editors.forms import RENDER
from toolchain.contracts.editors.served import Served
from toolchain.contracts.editors.settings import Settings

Form = Literal["json", "yaml", "toml", "lua", "vim", "steps"]


@dataclass(frozen=True)
class Editor:
    """`name` is the command line's; `where` says which file its settings belong in, and `key` where an API key does."""

    name: str
    title: str
    form: Form
    make: Callable[[Served], Settings | str]
    where: str
    key: str

    def text(self, served: Served) -> str:
        """The settings as they stand in the editor's file, with a line break at the end."""
        made = self.make(served)
        return made if isinstance(made, str) else RENDER[self.form](made)


EDITORS = {
    editor.name: editor
    for editor in (
        Editor(
            "vscode",
            "VS Code",
            "json",
            settings.vscode,
            "settings.json, with the extension huggingface.huggingface-vscode",
            "the command Llm: Login asks for it",
        ),
        Editor(
            "neovim",
            "Neovim",
            "lua",
            settings.llm_nvim,
            "init.lua, with the plugin huggingface/llm.nvim",
            "set LLM_NVIM_HF_API_TOKEN in the environment, or api_token here",
        ),
        Editor(
            "jetbrains",
            "JetBrains",
            "steps",
            settings.jetbrains,
            "the IDE's settings",
            "Settings > Tools > Tabby > Server endpoint > Token, or what holds for tabby or continue",
        ),
        Editor(
            "continue",
            "Continue",
            "yaml",
            settings.continue_,
            "~/.continue/config.yaml, for its extension in VS Code and its plugin for JetBrains",
            "write it as apiKey below apiBase",
        ),
        Editor(
            "zed",
            "Zed",
            "json",
            settings.zed,
            "settings.json",
            "set ZED_OPEN_AI_COMPATIBLE_EDIT_PREDICTION_API_KEY in the environment, "
            "or enter it at AI > Edit Predictions > Configure Providers",
        ),
        Editor(
            "llama.vscode",
            "llama.vscode",
            "json",
            settings.llama_vscode,
            "VS Code's settings.json, with the extension ggml-org.llama-vscode",
            'write it as "llama-vscode.api_key"',
        ),
        Editor(
            "llama.vim",
            "llama.vim",
            "vim",
            settings.llama_vim,
            "vimrc or init.vim, before the plugin ggml-org/llama.vim is loaded",
            "write it as g:llama_config.api_key",
        ),
        Editor(
            "tabby",
            "Tabby",
            "toml",
            settings.tabby,
            "~/.tabby-client/agent/config.toml, for its plugins in VS Code, JetBrains and Vim",
            'write it as token = "…" below endpoint',
        ),
    )
}
"""By the command line's name."""
