"""The q4 kernels alone, beside NumPy, for sizes that leave blocks and tiles partly empty."""

from __future__ import annotations

import numpy as np
import pytest

from compile.quantization import dequantize, quantize
from compile.schemes import parse_scheme
from toolchain.contracts.targets import parse_target

pytestmark = pytest.mark.compile


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(("outputs", "inputs", "count"), [(64, 64, 1), (100, 96, 1), (100, 96, 7), (48, 32, 4)])
def test_matmul_equals_numpy(outputs: int, inputs: int, count: int, lanes: int) -> None:
    import tvm

    from compile.devices import description
    from compile.kernels.cpu import quantized_matmul

    target = tvm.target.Target(description(parse_target("cpu")))

    def built(kernel: object) -> object:
        return tvm.compile(kernel.with_attr("global_symbol", "kernel"), target=target)["kernel"]

    draw = np.random.default_rng(0)
    words, scales = quantize(draw.standard_normal((outputs, inputs)).astype(np.float32))
    x = draw.standard_normal((count, inputs)).astype(np.float32)
    blocks, tensor = -(-outputs // lanes), tvm.runtime.tensor
    packed_words = tensor(np.full((blocks, inputs // 32, 4, lanes), 9, np.uint32))
    packed_scales = tensor(np.full((blocks, inputs // 32, lanes), 9, np.float16))
    out = tensor(np.full((count, outputs), np.nan, np.float32))
    built(quantized_matmul.pack_words(lanes, 4))(tensor(words), packed_words)
    built(quantized_matmul.pack_scales(lanes, "float16"))(tensor(scales), packed_scales)
    matmul = (quantized_matmul.gemv if count == 1 else quantized_matmul.gemm)(
        outputs, inputs, lanes, parse_scheme("q4f16_1")
    )
    built(matmul)(packed_words, packed_scales, tensor(x), out)
    np.testing.assert_allclose(out.numpy(), x @ dequantize(words, scales, inputs).T, rtol=1e-4, atol=1e-4)
