"""Settings for editors, at the address that the browser reached the server by."""

from __future__ import annotations

from functools import lru_cache

from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.served import Served


@lru_cache(maxsize=4)  # the page asks again and again
def snippets(served: Served) -> tuple[dict[str, str], ...]:
    """For each editor its name, where the settings go and a key does, and the settings."""
    return tuple(
        {
            "editor": editor.title,
            "where": f"{editor.where}. An API key: {editor.key}.",
            "text": editor.text(served),
        }
        for editor in EDITORS.values()
    )
