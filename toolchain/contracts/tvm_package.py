"""The TVM that is installed: apache-tvm from PyPI, or mlc-ai's wheel of the same project."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.extras import missing

PATTERNS = ("apache_tvm-*.dist-info", "mlc_ai*.dist-info", "tvm-*.dist-info")


@dataclass(frozen=True)
class TvmPackage:
    """`folder` holds the module `tvm`; `version` is that of the distribution."""

    distribution: str
    version: str
    folder: Path

    @property
    def release(self) -> str:
        """Major and minor version: libraries of one release run on another build of it."""
        return ".".join(self.version.split(".")[:2])


def find() -> TvmPackage:
    """The installed TVM, without importing it.

    Raises MissingExtra when there is none, SettingsError when two distributions bring the module `tvm`, since the
    files of one then lie over those of the other.
    """
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("tvm_ffi") is None:
        raise missing("apache-tvm")
    folder = Path(next(iter(spec.submodule_search_locations)))
    infos = [info for pattern in PATTERNS for info in sorted(folder.parent.glob(pattern)) if _brings_tvm(info)]
    names = [re.sub(r"[-_.]+", "-", info.name.split("-")[0]) for info in infos]
    if len(infos) > 1:
        raise SettingsError(
            f"two distributions bring the module tvm: {' and '.join(names)}",
            f"Run: pip uninstall {' '.join(names)}, then install the one that you want again.",
        )
    if not infos:
        return TvmPackage("tvm", "unknown", folder)
    return TvmPackage(names[0], infos[0].name.removesuffix(".dist-info").split("-")[1], folder)


def _brings_tvm(info: Path) -> bool:
    """Whether the distribution is more than a placeholder of its name."""
    record = info / "RECORD"
    return not record.is_file() or "\ntvm/" in "\n" + record.read_text(encoding="utf-8", errors="replace")
