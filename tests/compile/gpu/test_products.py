"""The products x · Wᵀ on every target, beside NumPy in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from compile.schemes import SCHEMES
from tests.compile.gpu import reference
from tests.compile.gpu.emulator import TARGETS, Emulator

pytestmark = pytest.mark.compile


class Case(NamedTuple):
    scheme: str
    kernel: str
    """"gemv" or "gemm"."""
    outputs: int
    inputs: int
    finish: str
    counts: tuple[int, ...]
    dtype: str | None = None


# 500 outputs fill no tile and no block of rows; 32 inputs are one group, 416 do not fill the lanes of a row.
CASES = [
    Case("q4f16_1", "gemv", 500, 2048, "", (1,)),
    Case("q4f16_1", "gemv", 500, 128, "bias_gelu", (1,)),
    Case("q4f16_1", "gemv", 7, 32, "residual", (1,)),
    Case("q4f16_1", "gemv", 130, 416, "bias_residual", (1,)),
    Case("q4f16_1", "gemv", 500, 2048, "bias", (1,)),
    Case("q4f16_1", "gemv", 130, 416, "", (1,), "float32"),
    Case("q4f16_1", "gemm", 500, 2048, "bias_residual", (2, 17)),
    Case("q4f16_1", "gemm", 500, 128, "", (1, 3, 33, 65, 130), "float32"),
    Case("q4f16_1", "gemm", 70, 32, "bias_gelu", (33,)),
    Case("q8f16_1", "gemv", 500, 2048, "bias_gelu", (1,)),
    Case("q8f16_1", "gemv", 130, 416, "residual", (1,)),
    Case("q8f16_1", "gemv", 7, 32, "", (1,)),
    Case("q8f16_1", "gemv", 500, 128, "bias_residual", (1,)),
    Case("q8f16_1", "gemm", 500, 2048, "", (2, 17)),
    Case("q8f16_1", "gemm", 500, 128, "bias", (1, 3, 33, 65)),
    Case("q4f32_1", "gemv", 500, 128, "bias_gelu", (1,)),
    Case("q4f32_1", "gemm", 500, 128, "residual", (3, 33)),
    Case("q8f32_1", "gemv", 500, 128, "residual", (1,)),
    Case("q8f32_1", "gemm", 500, 128, "bias_gelu", (3, 33)),
    Case("q0f16", "gemv", 500, 2048, "bias_gelu", (1,)),
    Case("q0f16", "gemv", 500, 128, "residual", (1,)),
    Case("q0f16", "gemm", 500, 128, "bias_residual", (1, 3, 33, 65)),
    Case("q0f32", "gemv", 500, 128, "bias", (1,)),
    Case("q0f32", "gemv", 7, 32, "", (1,)),
    Case("q0f32", "gemv", 130, 416, "", (1,)),
    Case("q0f32", "gemm", 500, 2048, "", (2, 17)),
]


def name_of(case: Case) -> str:
    return "_".join(str(part) for part in (*case[:4], case.finish or "plain"))


def kernel_of(case: Case) -> Any:
    from compile.kernels.gpu import float_matmul, quantized_matmul
    from compile.kernels.gpu.limits import Limits

    scheme = SCHEMES[case.scheme]
    module: Any = quantized_matmul if scheme.quantized else float_matmul
    arguments = (case.outputs, case.inputs, scheme, Limits(), case.finish, case.dtype)
    return getattr(module, case.kernel)(*arguments)


@pytest.fixture(scope="module")
def kernels() -> dict[str, Any]:
    return {name_of(case): kernel_of(case) for case in CASES}


@pytest.fixture(scope="module", params=list(TARGETS))
def target(request: pytest.FixtureRequest, kernels: dict[str, Any], emulate: Callable[..., Emulator]) -> Emulator:
    return emulate(kernels, request.param)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_product_equals_numpy(case: Case, target: Emulator) -> None:
    scheme, draw = SCHEMES[case.scheme], np.random.default_rng(0)
    weights = reference.weights(scheme, case.outputs, case.inputs, draw)
    dtype = case.dtype or scheme.dtype
    for count in case.counts:
        x = draw.standard_normal((count, case.inputs)).astype(scheme.dtype)
        extras = reference.extras(case.finish, count, case.outputs, scheme.dtype, draw)
        out = reference.blank((count, case.outputs), dtype)
        target(name_of(case), *weights.stored, x, *extras.values(), out)
        wide = x.astype(np.float64)
        wanted = reference.finished(wide @ weights.values.T, case.finish, extras)
        # Storing rounds the result; sums in float32 round with what they add up, whatever is left of it in the end.
        summed = np.abs(wide) @ np.abs(weights.values.T) + sum(np.abs(array) for array in extras.values())
        allowed = reference.ROUNDING[dtype] * np.abs(wanted) + 2.0**-21 * summed + 2.0**-25
        assert (np.abs(out - wanted) <= allowed).all(), np.nanmax(np.abs(out - wanted) / allowed)


def test_kernels_fit_every_gpu(target: Emulator, assert_fit: Callable[[Emulator], None]) -> None:
    assert_fit(target)
    # A product with many rows waits twice for each group of inputs, one with a single row once in all.
    barrier = "threadgroup_barrier(" if target.language == "metal" else "__syncthreads("
    for name in target.functions:
        kernel = (
            re.split(rf"void [^;{{]*\b{name}_kernel\([^;{{]*\{{", target.source)[1]
            .split("\nextern")[0]
            .split("\nkernel ")[0]
        )
        assert kernel.count(barrier) == (2 if "gemm" in name else 1), name
