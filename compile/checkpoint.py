"""Reading the tensors of a checkpoint through memory maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from toolchain.contracts import weight_files
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.weight_files import Weight

DTYPES: Mapping[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}


def index(folder: Path) -> dict[str, Weight]:
    """Every tensor of the checkpoint. Raises ArtifactError for weights that are missing, damaged or not floats."""
    found = weight_files.read_headers(folder)
    for name, weight in found.items():
        if weight.dtype not in DTYPES:
            raise ArtifactError(
                f"{weight.file} holds {name} as {weight.dtype}", "Use a checkpoint with 16- or 32-bit float weights."
            )
    return found


def load(weight: Weight) -> NDArray[Any]:
    """The tensor as a read-only memory map."""
    dtype = DTYPES[weight.dtype]
    if 0 in weight.shape:
        return np.zeros(weight.shape, dtype)
    return np.memmap(weight.file, dtype, "r", weight.offset, weight.shape)
