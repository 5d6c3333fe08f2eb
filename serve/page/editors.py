"""Settings for editors, at the address that the browser reached the server by."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain.contracts.fim import FimSpec

COMPLETION_TOKENS, WINDOW_TOKENS = 60, 1024


def snippets(url: str, tokenizer: Path, spec: FimSpec, context_size: int, model: str) -> list[dict[str, str]]:
    """For each editor its name, where the settings go, and the settings."""
    return [
        {
            "editor": "VS Code",
            "where": "settings.json, with the extension huggingface.huggingface-vscode",
            "text": _vscode(url, tokenizer, spec, context_size, model),
        }
    ]


def _vscode(url: str, tokenizer: Path, spec: FimSpec, context_size: int, model: str) -> str:
    # What `toolchain.editor` prints, which lies above this package; a test holds the two together.
    settings = {
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
    return json.dumps(settings, indent=2)
