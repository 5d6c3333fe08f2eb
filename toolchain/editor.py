"""Editor settings that point at a server of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.contracts import manifest
from toolchain.contracts.fim import FimSpec

COMPLETION_TOKENS = 60
WINDOW_TOKENS = 1024
"""What the editor sends at most. A processor reads 120 tokens a second or so, and has to for a first completion."""


def settings_for(url: str, bundle: Path, named: Path) -> dict[str, Any]:
    """What to paste into VS Code for the bundle, which the user named as `named`: itself, or its workspace.

    The tokenizer's path goes through the workspace where it can, so that the settings outlive this bundle.
    """
    facts = manifest.read(bundle, "bundle").facts
    below = Path("params") / "tokenizer.json"
    lasting = named.absolute() / "current" / below
    tokenizer = lasting if lasting.is_file() else bundle.resolve() / below
    return vscode_settings(url, tokenizer, FimSpec(**facts["fim"]), int(facts["context_size"]), str(facts["name"]))


def lines(settings: Mapping[str, Any]) -> list[str]:
    """The settings for people, with where they go."""
    where = "Paste this into VS Code's settings.json (extension: huggingface.huggingface-vscode):"
    return [where, json.dumps(settings, indent=2)]


def vscode_settings(url: str, tokenizer: Path, spec: FimSpec, context_size: int, model: str) -> dict[str, Any]:
    """What to paste into VS Code's settings.json for llm-vscode 0.2.

    The backend is `tgi`: it has no default address on the internet to fall back to, as `huggingface` has, and no
    model's name in its path. Some releases complete the path of `llm.url` and some do not, so it is given whole and
    completion is switched off. The tokenizer is named by its local path, because with a hub name the editor would
    download it and without one it counts bytes. Looking code up in The Stack sends it away, so that has no address.
    """
    return {
        "llm.backend": "tgi",
        "llm.url": f"{url}/generate",
        "llm.disableUrlPathCompletion": True,
        "llm.modelId": model,
        "llm.configTemplate": "Custom",
        "llm.contextWindow": min(WINDOW_TOKENS, max(context_size - COMPLETION_TOKENS, context_size // 2)),
        "llm.fillInTheMiddle.enabled": True,
        "llm.fillInTheMiddle.prefix": spec.prefix,
        "llm.fillInTheMiddle.suffix": spec.suffix,
        "llm.fillInTheMiddle.middle": spec.middle,
        "llm.tokensToClear": [spec.end_of_text],
        "llm.tokenizer": {"path": str(tokenizer)},
        "llm.attributionEndpoint": "",
        "llm.requestBody": {
            "parameters": {"max_new_tokens": COMPLETION_TOKENS, "temperature": 0.2, "do_sample": True, "top_p": 0.95}
        },
    }
