"""The runner of a compiled library, by the cache that it has."""

from __future__ import annotations

from pathlib import Path

from serve.engine.explicit_runner import ExplicitRunner
from serve.engine.library import Library
from serve.engine.paged_runner import PagedRunner


def load(path: Path, params: Path, context_size: int | None = None) -> ExplicitRunner | PagedRunner:
    """The library at `path` with the weights in `params`, ready for `context_size` tokens, the library's own if None.

    Raises ArtifactError and MissingExtra as `Library` does.
    """
    library = Library(path, params)
    runner = PagedRunner if library.metadata["cache"]["kind"] == "paged" else ExplicitRunner
    return runner(library, context_size or library.context_size)
