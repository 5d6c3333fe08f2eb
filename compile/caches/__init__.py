"""Two ways to keep keys and values, one face (`compile/layers/__init__.py`, `Cache`): explicit tensors, and pages.

Each module gives `functions`, what a library exports with that cache, and `describe`, what a runner must know of it.
"""

from __future__ import annotations

from toolchain.contracts.architectures.facts import Architecture

PREFILL_CHUNK = 128
"""Tokens that one call takes at most."""


def context_size(facts: Architecture, paged: bool) -> int:
    """Tokens of a sequence at most: TVM's paged attention sees all that the cache holds, so no more than a window."""
    return min(facts.context_size, facts.window or facts.context_size) if paged else facts.context_size
