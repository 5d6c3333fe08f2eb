"""MLC's group quantization (the layout called `_1`) with 4 or 8 bits, to the bit as MLC's converter does it.

Per group of 32 along the input dimension, each step rounded to the scheme's float type: scale = max|w| / m and
q = round-half-even(w / scale + m), clipped to 0..2m, where m is 7 for 4 bits and 127 for 8. The q of a group fill
uint32 words, lowest bits first. Source of the arithmetic: mlc_llm, `quantization/group_quantization.py`.

The work is done by a kernel compiled for this processor, because NumPy converts float16 number by number: 36 ns a
weight against 1 ns on a Zen 3 core. A processor without float16 conversions gives the same bits at NumPy's speed.
TVM is imported when the first kernel is built, so that planning a bundle does without.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from compile.schemes import GROUP, Scheme

ALIGNMENT = 64  # bytes: what TVM asks of an array
_building = threading.Lock()


def quantize(weight: NDArray[Any], scheme: Scheme) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    """`[N, K]` floats to uint32 words and scales in the scheme's dtype, shaped as `Scheme.stored_shapes` says.

    The weight is cast to the scheme's dtype first. Inputs beyond K are zero weights for the scale, and zero bits.
    A group that holds NaN or infinity after the cast has such a scale, so whoever calls need not look at the weights.
    Many threads may call at once.
    """
    if not scheme.quantized:
        raise ValueError(f"{scheme.name} does not quantize")
    words_shape, scales_shape = scheme.stored_shapes(weight.shape)
    inputs = weight.shape[1]
    # The kernel rounds float16 and float32 itself. float64 is rounded here, so once; bfloat16 fits in float32.
    given = {"float16": "float16", "float64": scheme.dtype}.get(weight.dtype.name, "float32")
    source = _aligned((scales_shape[0], scales_shape[1] * GROUP), given)
    source[:, inputs:] = 0
    with np.errstate(over="ignore"):
        source[:, :inputs] = weight
    words, scales = _aligned(words_shape, np.uint32), _aligned(scales_shape, scheme.dtype)
    with _building:
        kernel = _kernel(given, scheme)
    kernel(source, words, scales)
    if inputs % GROUP:
        real = np.arange(GROUP * scheme.bits) < inputs % GROUP * scheme.bits
        words[:, -scheme.bits :] &= np.packbits(real, bitorder="little").view("<u4")
    return words, scales


def _aligned(shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


@cache
def _kernel(given: str, scheme: Scheme) -> Any:
    """The compiled `_quantizer`, a function of source, words and scales."""
    import tvm

    codegen = tvm.target.codegen
    native = {
        "kind": "llvm",
        "mtriple": codegen.llvm_get_system_triple(),
        "mcpu": codegen.llvm_get_system_cpu(),
    }
    module = tvm.IRModule({"main": _quantizer(given, scheme)})
    return tvm.compile(module, target=tvm.target.Target(native))["main"]


def _quantizer(given: str, scheme: Scheme) -> Any:
    """Weights `[N, G * 32]` of dtype `given` to words `[N, G * bits]` and scales `[N, G]` of the scheme's dtype.

    A group is one vector of 32. Its largest magnitude is found among the bits without the sign, which order floats as
    integers and put NaN above infinity above every number, so that neither is lost.
    """
    from tvm.script import tirx as T

    dtype, bits, middle = scheme.dtype, scheme.bits, scheme.middle
    width = np.dtype(dtype).itemsize * 8
    unsigned = f"uint{width}"

    def constant(value: int, kind: str) -> Any:
        return T.Broadcast(T.Cast(kind, T.float32(value)), GROUP)

    def magnitudes(weights: Any) -> Any:
        without_sign = T.Broadcast(T.Cast(unsigned, T.uint32(2 ** (width - 1) - 1)), GROUP)
        return T.reinterpret(weights, dtype=f"{unsigned}x{GROUP}") & without_sign

    def levels(weights: Any, scale: Any) -> Any:
        moved = T.Cast(f"float32x{GROUP}", weights / T.Broadcast(scale, GROUP) + constant(middle, dtype))
        # In a group of zeros all are NaN. T.max gives its second argument for NaN, as it does in MLC's converter.
        clipped = T.min(T.max(moved, constant(0, "float32")), constant(2 * middle, "float32"))
        # Clipped first, because LLVM rounds a float32 that has just been a float16 lane by lane.
        rounded = T.call_llvm_pure_intrin(f"float32x{GROUP}", "llvm.rint", clipped)
        return T.Cast(f"uint8x{GROUP}", T.Cast(f"int32x{GROUP}", rounded))

    def packed(levels: Any) -> Any:
        if bits == 8:
            return T.reinterpret(levels, dtype="uint32x8")
        pairs = T.reinterpret(levels, dtype="uint16x16")
        joined = pairs | (pairs >> T.Broadcast(T.uint16(4), 16))
        return T.reinterpret(T.Cast("uint8x16", joined), dtype="uint32x4")

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def quantizer(source: T.handle, words: T.handle, scales: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows, inputs, groups = T.int64(), T.int64(), T.int64()
        s = T.match_buffer(source, (rows, inputs), given)
        w = T.match_buffer(words, (rows, groups * bits), "uint32")
        c = T.match_buffer(scales, (rows, groups), dtype)
        for row in T.serial(rows):
            for group in T.serial(groups):
                weights: T.let = T.Cast(f"{dtype}x{GROUP}", s[row, T.ramp(group * GROUP, 1, GROUP)])
                largest: T.let = T.call_llvm_pure_intrin(unsigned, "llvm.vector.reduce.umax", magnitudes(weights))
                scale: T.let = T.reinterpret(largest, dtype=dtype) / T.Cast(dtype, T.float32(middle))
                c[row, group] = scale
                w[row, T.ramp(group * bits, 1, bits)] = packed(levels(weights, scale))

    return quantizer
