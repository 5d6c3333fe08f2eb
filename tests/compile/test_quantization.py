import hashlib

import numpy as np
import pytest

from compile.quantization import dequantize, quantize

pytestmark = pytest.mark.compile


def reference(weight: np.ndarray) -> tuple[list[list[int]], list[list[np.float16]]]:
    """The format's arithmetic restated weight by weight, in float16."""
    words, scales = [], []
    seven = np.float16(7)
    for row in weight.astype(np.float16):
        padded = [*row, *[np.float16(0)] * (-len(row) % 32)]
        row_words, row_scales = [], []
        for g in range(0, len(padded), 32):
            group = padded[g : g + 32]
            scale = np.float16(max(abs(w) for w in group) / seven)
            row_scales.append(scale)
            nibbles = []
            for offset, w in enumerate(group):
                with np.errstate(all="ignore"):
                    level = float(np.rint(np.float16(np.float16(w / scale) + seven)))
                inside = g + offset < len(row)
                nibbles.append(int(min(max(level, 0), 14)) if inside and level == level else 0)
            row_words += [sum(n << (4 * i) for i, n in enumerate(nibbles[at : at + 8])) for at in range(0, 32, 8)]
        words.append(row_words)
        scales.append(row_scales)
    return words, scales


CASES = {
    "random": np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32),
    "no multiple of the group": np.random.default_rng(1).standard_normal((3, 50)).astype(np.float32),
    "zeros": np.zeros((2, 64), np.float32),
    "ties": np.tile(np.array([7, 0.5, 1.5, -0.5, -1.5, 2.5, -2.5, 6.5], np.float32), (1, 8)),
    "subnormal": np.full((1, 32), 6e-8, np.float32),
    "large": np.array([[65504.0, -65504.0] * 16], np.float32),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_arithmetic_restated(name: str) -> None:
    words, scales = quantize(CASES[name])
    wanted_words, wanted_scales = reference(CASES[name])
    assert words.tolist() == wanted_words
    assert scales.tolist() == [[float(s) for s in row] for row in wanted_scales]


def test_error_is_at_most_half_a_step() -> None:
    weight = CASES["random"].astype(np.float16)
    words, scales = quantize(weight)
    error = np.abs(dequantize(words, scales, weight.shape[1]) - weight.astype(np.float32)).reshape(5, -1, 32)
    # Half a step, and the rounding of w / scale + 7 to float16.
    assert (error <= scales[..., None].astype(np.float32) * 0.51).all()


def test_words_and_index_equal_what_mlc_made() -> None:
    """Hashes of what mlc_llm's converter wrote for the weights that this seed gives."""
    draw = np.random.default_rng(20261124)
    embedding = draw.standard_normal((512, 256), dtype=np.float32) * np.float32(0.08)
    words, scales = quantize(embedding)
    assert words.shape == (512, 32)
    assert scales.shape == (512, 8)
    assert hashlib.sha256(words.tobytes()).hexdigest() == MLC["words"]
    assert hashlib.sha256(scales.tobytes()).hexdigest() == MLC["scales"]


MLC = {
    "words": "7b225dee0ca2e4b40ed6ba36ee0eb93ac1df915d309130f29dd85fe8babed395",
    "scales": "b6b33ba9b1b6adb8522b387a362f464dfde8777f088dbd3170ddfd149abce50d",
}
