"""Choosing what generates for a bundle."""

from __future__ import annotations

from serve.backends import Backend
from serve.bundle import Bundle
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress


def open_backend(bundle: Bundle, engine: str | None, progress: Progress) -> Backend:
    """The bundle's model, loaded: in `engine`, or in the one that it was compiled for.

    Raises ArtifactError when the bundle cannot be run so, MissingExtra without mlc_llm where that is asked for.
    """
    if (engine or bundle.builder) == "mlc-llm":
        from serve.backends.mlc import open_mlc

        return open_mlc(bundle, progress)
    if bundle.builder != "fimble":
        raise ArtifactError(
            f"{bundle.folder} was compiled with {bundle.builder} for its own engine",
            "Leave --engine out, or compile it again without --builder.",
        )
    from serve.backends.native import open_native

    return open_native(bundle, progress)
