"""The quantized kernels for processors alone, beside NumPy, for sizes that leave blocks and tiles partly empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compile.schemes import SCHEMES, Scheme
from tests.compile.group_quantization import dequantized, quantized
from toolchain.contracts.targets import parse_target

pytestmark = pytest.mark.compile
QUANTIZED = [scheme.name for scheme in SCHEMES.values() if scheme.quantized]


def built(kernel: Any) -> Any:
    import tvm

    from compile.devices import description

    target = tvm.target.Target(description(parse_target("cpu")))
    return tvm.compile(kernel.with_attr("global_symbol", "kernel"), target=target)["kernel"]


def packed(weight: np.ndarray, scheme: Scheme, lanes: int) -> tuple[Any, Any, np.ndarray]:
    """Words and scales as the kernels take them, packed over what was there before, and the weights they stand for."""
    import tvm

    from compile.kernels.cpu import quantized_matmul

    tensor, (words, scales) = tvm.runtime.tensor, quantized(weight, scheme)
    blocks, groups = -(-len(weight) // lanes), scales.shape[1]
    packed_words = tensor(np.full((blocks, groups, scheme.bits, lanes), 9, np.uint32))
    packed_scales = tensor(np.full((blocks, groups, lanes), 9, scheme.dtype))
    built(quantized_matmul.pack_words(lanes, scheme.bits))(tensor(words), packed_words)
    built(quantized_matmul.pack_scales(lanes, scheme.dtype))(tensor(scales), packed_scales)
    return packed_words, packed_scales, dequantized(words, scales, weight.shape[1])


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(("outputs", "inputs", "count"), [(64, 64, 1), (100, 96, 1), (100, 96, 7), (48, 32, 4)])
def test_matmul_equals_numpy(outputs: int, inputs: int, count: int, lanes: int, name: str) -> None:
    import tvm

    from compile.kernels.cpu import quantized_matmul

    draw, scheme = np.random.default_rng(0), SCHEMES[name]
    words, scales, weight = packed(draw.standard_normal((outputs, inputs)).astype(np.float32), scheme, lanes)
    x = draw.standard_normal((count, inputs)).astype(np.float32)
    out = tvm.runtime.tensor(np.full((count, outputs), np.nan, np.float32))
    matmul = (quantized_matmul.gemv if count == 1 else quantized_matmul.gemm)(outputs, inputs, lanes, scheme)
    built(matmul)(words, scales, tvm.runtime.tensor(x), out)
    np.testing.assert_allclose(out.numpy(), x @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("lanes", [8, 16])
def test_embedding_gathers_the_rows_that_were_packed(lanes: int, name: str) -> None:
    import tvm

    from compile.kernels.cpu import embedding

    draw, scheme, ids = np.random.default_rng(0), SCHEMES[name], np.array([99, 0, 7, 8, 99], np.int32)
    words, scales, weight = packed(draw.standard_normal((100, 96)).astype(np.float32), scheme, lanes)
    out = tvm.runtime.tensor(np.full((len(ids), 96), np.nan, np.float32))
    built(embedding.gather_quantized(96, lanes, scheme))(tvm.runtime.tensor(ids), words, scales, out)
    np.testing.assert_array_equal(out.numpy(), weight[ids])
