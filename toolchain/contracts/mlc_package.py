"""The mlc_llm that is installed, if any: an alternative builder of libraries, and an alternative engine."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version

from toolchain.contracts.errors import MissingExtra


@dataclass(frozen=True)
class MlcPackage:
    """The distribution that brings the module `mlc_llm`, and its version; `unknown` for a plain folder of sources."""

    distribution: str
    version: str


def find() -> MlcPackage:
    """The installed mlc_llm, without importing it. Raises MissingExtra when there is none.

    The projects of that name on PyPI are empty, so the real wheels' index is named.
    """
    spec = importlib.util.find_spec("mlc_llm")
    if spec is None:
        raise MissingExtra(
            "mlc_llm is not installed",
            "Run: pip uninstall apache-tvm, then pip install --pre -f https://mlc.ai/wheels "
            "mlc-llm-nightly-cpu mlc-ai-nightly-cpu (for CUDA, the names that https://llm.mlc.ai/docs/install tells).",
        )
    names = packages_distributions().get("mlc_llm", [])
    return MlcPackage(names[0], version(names[0])) if names else MlcPackage("mlc_llm", "unknown")
