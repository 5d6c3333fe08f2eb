"""Norms, embeddings, rotary positions and gathers on every target, beside NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compile.schemes import SCHEMES
from tests.compile.gpu import reference
from tests.compile.gpu.emulator import TARGETS, Emulator

pytestmark = pytest.mark.compile

DTYPES = ("float16", "float32")
COUNTS = (1, 3, 17)
EPSILON = 1e-5
# No multiple of a block's 256 threads, and fewer than those.
SIZES = (608, 96)
HEADS, KV_HEADS, HEAD_SIZE = 6, 2, 64


@pytest.fixture(scope="module")
def kernels() -> dict[str, Any]:
    from compile.kernels.gpu import embedding, rope, rows
    from compile.kernels.gpu.limits import Limits

    limits = Limits()
    made: dict[str, Any] = {}
    for dtype in DTYPES:
        for size in SIZES:
            made[f"layer_norm_{size}_{dtype}"] = rows.layer_norm(size, EPSILON, limits, dtype)
            made[f"rms_norm_{size}_{dtype}"] = rows.rms_norm(size, EPSILON, limits, dtype)
        made[f"gated_{dtype}"] = rows.gated(SIZES[0], limits, dtype)
        made[f"take_rows_{dtype}"] = rows.take_rows(SIZES[0], limits, dtype)
        made[f"rotate_{dtype}"] = rope.rotate(HEADS, KV_HEADS, HEAD_SIZE, limits, dtype)
    for name, scheme in SCHEMES.items():
        for added in (False, True):
            if scheme.quantized:
                made[f"embed_{name}_{added}"] = embedding.gather_quantized(SIZES[0], scheme, limits, added)
            else:
                made[f"embed_{name}_{added}"] = embedding.gather(SIZES[0], scheme.dtype, limits, added)
    return made


@pytest.fixture(scope="module", params=list(TARGETS))
def target(request: pytest.FixtureRequest, kernels: dict[str, Any], emulate: Callable[..., Emulator]) -> Emulator:
    return emulate(kernels, request.param)


def assert_close(found: np.ndarray, wanted: np.ndarray, allowed_in_float32: np.ndarray | float) -> None:
    """`found` is `wanted` but for the rounding of its dtype, and for an error of the arithmetic in float32."""
    allowed = reference.ROUNDING[str(found.dtype)] * np.abs(wanted) + allowed_in_float32 + 2.0**-25
    assert (np.abs(found - wanted) <= allowed).all(), np.nanmax(np.abs(found - wanted) / allowed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_norms(norm: str, size: int, dtype: str, target: Emulator) -> None:
    draw = np.random.default_rng(0)
    gamma, beta = (draw.standard_normal(size).astype(dtype) for _ in range(2))
    for count in COUNTS:
        # A mean far from zero: the mean of squares less its square would lose the variance.
        x = (draw.standard_normal((count, size)) + 20).astype(dtype)
        out, wide = reference.blank(x.shape, dtype), x.astype(np.float64)
        if norm == "layer_norm":
            target(f"{norm}_{size}_{dtype}", x, gamma, beta, out)
            centred = wide - wide.mean(-1, keepdims=True)
            wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * gamma.astype(np.float64) + beta
        else:
            target(f"{norm}_{size}_{dtype}", x, gamma, out)
            wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPSILON) * gamma.astype(np.float64)
        assert_close(out, wanted, 2.0**-17)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated(dtype: str, target: Emulator) -> None:
    draw, size = np.random.default_rng(0), SIZES[0]
    for count in COUNTS:
        x = (draw.standard_normal((count, 2 * size)) * 30).astype(dtype)
        out = reference.blank((count, size), dtype)
        target(f"gated_{dtype}", x, out)
        wanted = reference.silu(x[:, :size].astype(np.float64)) * x[:, size:]
        assert_close(out, wanted, 2.0**-21 * np.abs(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_take_rows(dtype: str, target: Emulator) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((17, SIZES[0])).astype(dtype)
    for rows in [16], [0, 16, 3], [5] * 20:
        out = reference.blank((len(rows), SIZES[0]), dtype)
        target(f"take_rows_{dtype}", x, np.array(rows, np.int32), out)
        assert (out == x[rows]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_positions(dtype: str, target: Emulator) -> None:
    draw = np.random.default_rng(0)
    half, turned = HEAD_SIZE // 2, HEADS + KV_HEADS
    frequencies = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    for positions in [0], [1, 2, 3], [5, 100000, 3, 4095, 16383]:
        places = np.array(positions, np.int32)
        qkv = draw.standard_normal((len(places), (HEADS + 2 * KV_HEADS) * HEAD_SIZE)).astype(dtype)
        out = reference.blank(qkv.shape, dtype)
        target(f"rotate_{dtype}", qkv, places, frequencies, out)
        # The angle is a float32, as in transformers; what follows is exact here.
        angles = (places.astype(np.float32)[:, None] * frequencies).astype(np.float64)[:, None]
        heads = qkv.astype(np.float64).reshape(len(places), -1, HEAD_SIZE)
        first, second = heads[..., :half], heads[..., half:]
        wanted = np.concatenate(
            [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)], -1
        )
        wanted[:, turned:] = heads[:, turned:]
        assert_close(out, wanted.reshape(out.shape), 2.0**-20)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_embedding(scheme: str, added: bool, target: Emulator) -> None:
    draw, size, dtype = np.random.default_rng(0), SIZES[0], SCHEMES[scheme].dtype
    table = reference.weights(SCHEMES[scheme], 50, size, draw)
    for ids in [49], [0, 7, 49, 7]:
        x = [draw.standard_normal((len(ids), size)).astype(dtype)] if added else []
        out = reference.blank((len(ids), size), dtype)
        target(f"embed_{scheme}_{added}", np.array(ids, np.int32), *table.stored, *x, out)
        assert_close(out, table.values[ids] + (x[0].astype(np.float64) if added else 0), 2.0**-20)


def test_kernels_fit_every_gpu(target: Emulator, assert_fit: Callable[[Emulator], None]) -> None:
    assert_fit(target)
