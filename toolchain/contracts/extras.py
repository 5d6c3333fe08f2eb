"""Libraries that only some stages need: looked for before the work, and named with what installs them."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlsplit
from urllib.request import url2pathname

from toolchain.contracts.errors import MissingExtra


def need(*libraries: str) -> None:
    """Raise MissingExtra for the first of the `libraries` that is not installed; none is imported."""
    for name in libraries:
        if importlib.util.find_spec(name) is None:
            raise missing(name)


def missing(library: str) -> MissingExtra:
    return MissingExtra(f"the library {library} is not installed", f"Run: pip install '{_origin()}[all]'")


def _origin() -> str:
    """Where fimble was installed from: a checkout, or else the package index."""
    try:
        told = distribution("fimble").read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    url = str(json.loads(told)["url"]) if told else ""
    return url2pathname(urlsplit(url).path) if url.startswith("file:") else "fimble"
