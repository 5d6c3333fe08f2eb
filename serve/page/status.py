"""What the page shows, as JSON: what is loaded, what was counted, and settings for editors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serve.bundle import Bundle
from serve.metrics import Metrics
from serve.page.editors import snippets
from toolchain.contracts import manifest
from toolchain.contracts.editors.served import Served


def describe(bundle: Bundle) -> dict[str, Any]:
    """What is loaded; what an older bundle does not say is null."""
    facts = manifest.read(bundle.folder).facts if manifest.is_whole(bundle.folder) else {}
    return {
        "name": bundle.name,
        "family": facts.get("family"),
        "parameters": facts.get("parameters"),
        "scheme": facts.get("scheme"),
        "target": bundle.libraries[0][0].name if bundle.libraries else "upstream",
        "context_size": bundle.context_size,
        "fim_order": bundle.spec.serving_order if bundle.spec.fills else None,
        "max_tokens": bundle.max_tokens,
    }


def status(models: Sequence[Mapping[str, Any]], first: Bundle, metrics: Metrics, url: str) -> dict[str, Any]:
    """The reply to the page, which reached the server at `url`; `models` are what `describe` gave.

    The settings are for the first model, which answers editors that name none.
    """
    served = Served(url, first.params / "tokenizer.json", first.spec, first.context_size, first.name)
    return {
        "models": models,
        "totals": metrics.totals(),
        "recent": [asdict(served) for served in metrics.recent],
        "editors": snippets(served),
    }
