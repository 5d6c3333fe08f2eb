from __future__ import annotations

from tests.toolchain.conftest import fimble

__all__ = ["fimble"]
