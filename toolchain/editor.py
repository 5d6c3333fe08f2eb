"""Editor settings that point at a server of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.contracts.fim import FimSpec

# llm-vscode counts its window in tokens; the completion needs room behind it.
COMPLETION_TOKENS = 60


def vscode_settings(url: str, tokenizer: Path, spec: FimSpec, context_size: int, model: str) -> dict[str, Any]:
    """What to paste into VS Code's settings.json for llm-vscode 0.2.

    The backend is `tgi`, which posts to `{url}/generate` and needs no model in the path. The tokenizer is named by
    its local path, because with a hub name the editor would download it and without one it counts bytes.
    """
    return {
        "llm.backend": "tgi",
        "llm.url": url,
        "llm.modelId": model,
        "llm.configTemplate": "Custom",
        "llm.contextWindow": max(context_size - COMPLETION_TOKENS, context_size // 2),
        "llm.fillInTheMiddle.enabled": True,
        "llm.fillInTheMiddle.prefix": spec.prefix,
        "llm.fillInTheMiddle.suffix": spec.suffix,
        "llm.fillInTheMiddle.middle": spec.middle,
        "llm.tokensToClear": [spec.end_of_text],
        "llm.tokenizer": {"path": str(tokenizer)},
        "llm.requestBody": {
            "parameters": {"max_new_tokens": COMPLETION_TOKENS, "temperature": 0.2, "do_sample": True, "top_p": 0.95}
        },
    }
