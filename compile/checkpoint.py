"""Reading the tensors of a checkpoint through memory maps."""

from __future__ import annotations

import math
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


def row_bytes(weight: Weight) -> int:
    """How many bytes of the file one index of the first axis takes."""
    itemsize: int = np.dtype(DTYPES[weight.dtype]).itemsize
    return math.prod(weight.shape[1:]) * itemsize


def rows(weight: Weight, begin: int, end: int) -> NDArray[Any]:
    """The rows `begin` to `end` of the first axis, as a read-only memory map of these alone.

    Its pages leave the process with it, so whoever reads row by row holds no more than some rows. Raises
    ArtifactError when the file is no longer there, or shorter than it was.
    """
    offset, shape = weight.offset + begin * row_bytes(weight), (end - begin, *weight.shape[1:])
    try:
        return np.memmap(weight.file, DTYPES[weight.dtype], "r", offset, shape)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{weight.file} cannot be read ({error})", weight_files.AGAIN) from None
