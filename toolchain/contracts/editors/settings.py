"""The settings of each editor. A value stands under its path of keys, and is set as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.contracts.editors.scripts import lua, vim
from toolchain.contracts.editors.served import COMPLETION_TOKENS, Served

Settings = Mapping[tuple[str, ...], Any]
READ_MS, WRITE_MS = 10_000, 5_000
"""How long llama.cpp's clients wait for a prompt to be read and for text: their own defaults are a GPU's."""
ENTRY = "Fimble"
"""The name of our entry among Continue's models."""


def vscode(served: Served) -> Settings:
    """llm-vscode 0.2.

    The backend is `tgi`: it has no default address on the internet to fall back to, as `huggingface` has, and no
    model's name in its path. Some releases complete the path of `llm.url` and some do not, so it is given whole and
    completion is switched off. The tokenizer is named by its local path, because with a hub name the editor would
    download it and without one it counts bytes. Looking code up in The Stack sends it away, so that has no address.
    """
    return {
        ("llm.backend",): "tgi",
        ("llm.url",): f"{served.url}/generate",
        ("llm.disableUrlPathCompletion",): True,
        ("llm.modelId",): served.model,
        ("llm.configTemplate",): "Custom",
        ("llm.contextWindow",): served.window,
        ("llm.fillInTheMiddle.enabled",): served.spec.fills,
        ("llm.fillInTheMiddle.prefix",): served.spec.prefix,
        ("llm.fillInTheMiddle.suffix",): served.spec.suffix,
        ("llm.fillInTheMiddle.middle",): served.spec.middle,
        ("llm.tokensToClear",): [served.spec.end_of_text],
        ("llm.tokenizer",): {"path": str(served.tokenizer)},
        ("llm.attributionEndpoint",): "",
        ("llm.requestBody",): _request_body(),
    }


def llama_vscode(served: Served) -> Settings:
    """llama.vscode. One completion is asked for, as more cost their whole time again."""
    return {
        ("llama-vscode.endpoint",): served.url,
        ("llama-vscode.max_parallel_completions",): 1,
        ("llama-vscode.n_prefix",): served.lines_before,
        ("llama-vscode.n_suffix",): served.lines_after,
        ("llama-vscode.n_predict",): COMPLETION_TOKENS,
        ("llama-vscode.t_max_prompt_ms",): READ_MS,
        ("llama-vscode.t_max_predict_ms",): WRITE_MS,
        **({("llama-vscode.api_key",): served.key} if served.key else {}),
    }


def zed(served: Served) -> Settings:
    """Zed's edit predictions, which know prompt formats by name; a key has no place in its settings."""
    return {
        ("edit_predictions", "provider"): "open_ai_compatible_api",
        ("edit_predictions", "open_ai_compatible_api", "api_url"): f"{served.url}/v1/completions",
        ("edit_predictions", "open_ai_compatible_api", "model"): served.model,
        ("edit_predictions", "open_ai_compatible_api", "prompt_format"): _zed_format(served),
        ("edit_predictions", "open_ai_compatible_api", "max_output_tokens"): COMPLETION_TOKENS,
    }


def continue_(served: Served) -> Settings:
    """Continue's config.yaml. The first three keys are needed in every such file, whatever they say."""
    entry = {
        "name": ENTRY,
        "provider": "llama.cpp",
        "model": served.model,
        "apiBase": f"{served.url}/",
        **({"apiKey": served.key} if served.key else {}),
        "roles": ["autocomplete"],
        "promptTemplates": {"autocomplete": served.prompt("{{{prefix}}}", "{{{suffix}}}")},
        "defaultCompletionOptions": {
            "contextLength": served.context_size,
            "maxTokens": COMPLETION_TOKENS,
            "temperature": 0.2,
            "stop": [served.spec.end_of_text],
        },
        # By default it shows what there is after 150 ms.
        "autocompleteOptions": {"maxPromptTokens": served.window, "modelTimeout": WRITE_MS},
    }
    return {("name",): "Local Config", ("version",): "1.0.0", ("schema",): "v1", ("models",): [entry]}


def tabby(served: Served) -> Settings:
    """Tabby's agent, which its plugins for VS Code, JetBrains and Vim share. Its usage reports leave the machine."""
    return {
        ("server", "endpoint"): served.url,
        **({("server", "token"): served.key} if served.key else {}),
        ("completion", "prompt", "maxPrefixLines"): served.lines_before,
        ("completion", "prompt", "maxSuffixLines"): served.lines_after,
        ("anonymousUsageTracking", "disable"): True,
    }


def llm_nvim(served: Served) -> str:
    """llm.nvim, which drives the same language server as llm-vscode."""
    options = {
        **({"api_token": served.key} if served.key else {}),
        "backend": "tgi",
        "url": f"{served.url}/generate",
        "disable_url_path_completion": True,
        "model": served.model,
        "context_window": served.window,
        "tokenizer": {"path": str(served.tokenizer)},
        "tokens_to_clear": [served.spec.end_of_text],
        "fim": {
            "enabled": served.spec.fills,
            "prefix": served.spec.prefix,
            "suffix": served.spec.suffix,
            "middle": served.spec.middle,
        },
        "request_body": _request_body(),
    }
    return f'require("llm").setup({lua(options)})\n'


def llama_vim(served: Served) -> str:
    """llama.vim, for Vim and Neovim; its own settings that are not named here stay."""
    options: dict[str, str | int] = {
        "endpoint_fim": f"{served.url}/infill",
        **({"api_key": served.key} if served.key else {}),
        "n_prefix": served.lines_before,
        "n_suffix": served.lines_after,
        "n_predict": COMPLETION_TOKENS,
        "t_max_prompt_ms": READ_MS,
        "t_max_predict_ms": WRITE_MS,
    }
    return "\n".join(["let g:llama_config = get(g:, 'llama_config', {})", *vim("g:llama_config", options), ""])


def jetbrains(served: Served) -> str:
    """Steps, since the plugins keep their settings inside of the IDE, in files that it rewrites."""
    return (
        "With the plugin Tabby:\n"
        "  1. Run: fimble editor tabby --write\n"
        "  2. Leave Settings > Tools > Tabby > Server endpoint empty, so that it reads that file;\n"
        f"     or enter there: {served.url}\n"
        "With the plugin Continue:\n"
        "  1. Run: fimble editor continue --write\n"
        "  2. Choose Fimble as the autocomplete model in Continue's own settings.\n"
    )


def _request_body() -> dict[str, Any]:
    return {"parameters": {"max_new_tokens": COMPLETION_TOKENS, "temperature": 0.2, "do_sample": True, "top_p": 0.95}}


def _zed_format(served: Served) -> str:
    known = {"<fim_prefix>": "star_coder", "<|fim_prefix|>": "qwen"}
    return known.get(served.spec.prefix, "infer")
