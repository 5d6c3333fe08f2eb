"""What a compiled library says of itself (`compile/metadata.py` writes it, `serve/engine/library.py` reads it)."""

from __future__ import annotations

VERSION = 3
"""Goes up when a loader must read it otherwise."""
