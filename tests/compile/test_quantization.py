"""Group quantization against the same arithmetic in NumPy, and against what MLC's own code gave."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from compile import quantization
from compile.quantization import quantize
from compile.schemes import SCHEMES, Scheme
from tests.compile.group_quantization import dequantized, quantized

pytestmark = pytest.mark.compile
QUANTIZED = [scheme.name for scheme in SCHEMES.values() if scheme.quantized]


def assert_equal_bits(weight: np.ndarray, scheme: Scheme) -> None:
    words, scales = quantize(weight, scheme)
    wanted_words, wanted_scales = quantized(weight, scheme)
    assert (words.dtype, scales.dtype) == (np.uint32, np.dtype(scheme.dtype))
    assert (words.shape, scales.shape) == scheme.stored_shapes(weight.shape)
    assert np.array_equal(words, wanted_words)
    assert scales.tobytes() == wanted_scales.tobytes()


def draw(rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


CASES = {
    "random": draw(5, 96),
    "no multiple of the group": draw(3, 50, seed=1),
    "less than a group": draw(4, 7),
    "one weight": draw(1, 1),
    "zeros": np.zeros((2, 64), np.float32),
    "negative zeros": np.full((2, 64), -0.0, np.float32),
    "one group of zeros": np.hstack([np.zeros((2, 32), np.float32), draw(2, 32)]),
    "ties of 4 bits": np.tile(np.array([7, 0.5, 1.5, -0.5, -1.5, 2.5, -2.5, 6.5], np.float32), (1, 8)),
    "ties of 8 bits": np.tile(np.array([127, 0.5, 1.5, -0.5, -1.5, 120.5, -126.5, 63.5], np.float32), (1, 8)),
    "near ties": np.array([[7, *(n + 0.5 + e for n in range(-7, 7) for e in (-2e-3, 2e-3))] + [0] * 3], np.float32),
    "subnormal in float16": draw(8, 64) * np.float32(1e-6),
    "vanishing in float16": draw(8, 64) * np.float32(3e-8),
    "subnormal in float32": draw(8, 64) * np.float32(1e-40),
    "scale vanishes": np.full((1, 32), 6e-8, np.float32),
    "large": np.array([[65504.0, -65504.0] * 16], np.float32),
    "ties of the cast": np.ldexp(np.arange(2048, 2112, dtype=np.float32), -11).reshape(2, 32) + np.float32(2**-12),
}


@pytest.mark.parametrize("scheme", QUANTIZED)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_arithmetic_restated(case: str, scheme: str) -> None:
    assert_equal_bits(CASES[case], SCHEMES[scheme])


@pytest.mark.parametrize("scheme", QUANTIZED)
@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_source_is_rounded_once(source: type, scheme: str) -> None:
    weight = draw(16, 200, seed=2).astype(np.float64)
    # Halfway between two float16 numbers but for a trace that float32 would lose.
    weight[:, ::5] = 1 + 2.0**-11 + 2.0**-40
    assert_equal_bits(weight.astype(source), SCHEMES[scheme])


@pytest.mark.parametrize("scheme", ["q4f16_1", "q8f16_1"])
def test_every_float16_beside_some_largest_ones(scheme: str) -> None:
    """All weights that a group with this largest one can hold, for largest ones of every exponent."""
    numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16)  # 0 to 65504 in order
    for at in [*range(1, 40, 3), *range(40, 0x7C00, 2111), 0x7BFF]:
        smaller = np.concatenate([numbers[: at + 1], -numbers[: at + 1]])
        rows = np.concatenate([smaller, np.zeros(-len(smaller) % 31, np.float16)]).reshape(-1, 31)
        assert_equal_bits(np.hstack([np.full((len(rows), 1), numbers[at]), rows]), SCHEMES[scheme])


@pytest.mark.parametrize("scheme", QUANTIZED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_the_scale_tells_of_what_is_not_finite(bad: float, scheme: str) -> None:
    weight = draw(3, 96).astype(np.float64)
    weight[1, 40] = bad
    _, scales = quantize(weight, SCHEMES[scheme])
    assert np.argwhere(~np.isfinite(scales)).tolist() == [[1, 1]]


def test_overflow_of_the_cast_shows_in_the_scale() -> None:
    weight = np.full((1, 32), 65520.0, np.float32)  # rounds to infinity in float16
    assert np.isinf(quantize(weight, SCHEMES["q4f16_1"])[1]).all()
    assert np.isfinite(quantize(weight, SCHEMES["q4f32_1"])[1]).all()


@pytest.mark.parametrize(
    ("scheme", "steps"), [("q4f16_1", 0.51), ("q4f32_1", 0.501), ("q8f16_1", 0.6), ("q8f32_1", 0.501)]
)
def test_error_is_half_a_step_and_the_rounding_of_the_float_type(scheme: str, steps: float) -> None:
    weight = draw(5, 100).astype(np.float16)
    words, scales = quantize(weight, SCHEMES[scheme])
    step = np.repeat(scales.astype(np.float32), 32, axis=1)[:, :100]
    assert (np.abs(dequantized(words, scales, 100) - weight.astype(np.float32)) <= step * steps).all()


def test_threads_that_all_begin_with_the_first_kernel() -> None:
    quantization._kernel.cache_clear()
    weight = draw(64, 512)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: quantize(weight, SCHEMES["q4f16_1"])[0].tobytes(), range(32)))
    assert set(results) == {quantized(weight, SCHEMES["q4f16_1"])[0].tobytes()}


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_words_and_scales_equal_what_mlc_made(scheme: str) -> None:
    """Hashes of what mlc_llm's `GroupQuantize` (July 2026, TVM 0.27) gave for the weights that these seeds give."""
    embedding = np.random.default_rng(20261124).standard_normal((512, 256), dtype=np.float32) * np.float32(0.08)
    odd = np.random.default_rng(7).standard_normal((40, 100), dtype=np.float32)
    odd[3], odd[7] = 0, 3e-42
    odd[4, :32] *= 1e-6
    odd[5] *= 1e4
    odd[6] *= 1e-30
    made = [
        hashlib.sha256(array.tobytes()).hexdigest() for w in (embedding, odd) for array in quantize(w, SCHEMES[scheme])
    ]
    assert made == MLC[scheme]


MLC = {
    "q4f16_1": [
        "7b225dee0ca2e4b40ed6ba36ee0eb93ac1df915d309130f29dd85fe8babed395",
        "b6b33ba9b1b6adb8522b387a362f464dfde8777f088dbd3170ddfd149abce50d",
        "47f3ba428cc2fb81c80641a5c3ab906b1754ef80571558f44b903eabb13b93d7",
        "4af8fa1b66c5daffcc3494aefc582add8d4879157c7d0285bfbdfe906a591bad",
    ],
    "q4f32_1": [
        "e38b048eeeb8a37c51af7e0e55f889c2f8d160e1fa1062af1954190fad8da574",
        "365edf019c1ff03eed9cd370c17660b1f9f7287bf80e7d53392c569aa54225a0",
        "8686c6b97d6732d01ac35cfc1178bb5558058205fe5c827a4d6ea6978f1c7500",
        "0a1b2574d9e925d85a3953b90d755c0bbee045454a19a01c123d444d025d9e90",
    ],
    "q8f16_1": [
        "0181ca76053add9922dbf02b18968da93de8415cf9979234499e2fcf08664742",
        "2de222699756d5636d082a20228193a58e1c8b814f7a449358411607f8418d8b",
        "81f07e83500a998f3b61ea0aa42f26f73c815ca455625cc0418dfcfa2abe3cdc",
        "524cbe81970d78de2da9a3d6087b26f435b19224e1f4620025e51c621d8e72c4",
    ],
    "q8f32_1": [
        "2d72f09221b9e6cc35bce77bd4c64b9a27ff90739d6242973ca9ba020bf03f39",
        "4c82b93ba071d6370224ba6bf21a0a10d008339339ed19147874878de8a3c20f",
        "2c3a106ed3594a7bc5cbd264a5f3b39c026b1b829b1ae8fd7f22dd443dfc2835",
        "e688a4161c23eda18010a584cb18a2819aa02d868619dd61be83dedc885f61a1",
    ],
}
