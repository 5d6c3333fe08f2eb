"""What the products x · Wᵀ have in common, whatever W is made of.

A product for one row (GEMV) shares each row of W among some threads: see `Walk`. One for many rows (GEMM) is made in
tiles: a block makes `Tiling.rows` by `COLUMNS` outputs, `DEPTH` inputs at a time, from a tile of x and one of W in
shared memory. A thread makes 4 by 4 of them, apart from one another by `Tiling.height` and by 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from compile.kernels.gpu.arithmetic import four, gelu
from compile.kernels.gpu.limits import Limits

GEMV_THREADS = 128
# Rows of W that a thread of a GEMV walks at once.
SIDE = 4
GEMM_THREADS = 256
COLUMNS, DEPTH = 64, 32
# Four numbers wider than DEPTH, so that neighbouring rows of a tile begin in different banks of shared memory.
PITCH = DEPTH + 4


def finished(total: Any, bias: Any, residual: Any, finish: str, dtype: str) -> Any:
    """A float32 sum with what follows a product: "", "bias", "bias_gelu", "bias_residual" or "residual"."""
    if "bias" in finish:
        total = total + T.Cast("float32", bias)
    if finish == "bias_gelu":
        total = gelu(total)
    if "residual" in finish:
        total = total + T.Cast("float32", residual)
    return T.Cast(dtype, total)


def without_unused(kernel: Any, finish: str) -> Any:
    """A kernel written with a bias and a residual, B and Y, less the one or both that its finish does not use."""
    unused = {name for name, word in (("B", "bias"), ("Y", "residual")) if word not in finish}
    parameters = [parameter for parameter in kernel.params if parameter.name not in unused]
    return tirx.PrimFunc(parameters, kernel.body, kernel.ret_type, kernel.attrs)


@dataclass(frozen=True)
class Walk:
    """How a GEMV goes through W: `lanes` threads share a row and `heights` of them make a block.

    A thread has sums for `SIDE` neighbouring rows of W, four numbers each.
    """

    lanes: int
    heights: int

    @classmethod
    def of(cls, units: int, limits: Limits, dtype: str) -> Walk:
        """For rows of W of `units` reads."""
        lanes = min(limits.warp, 1 << (units.bit_length() - 1))
        walk = cls(lanes, min(GEMV_THREADS, limits.threads) // lanes)
        limits.require(lanes * walk.heights, walk.shared * 4, dtype)
        return walk

    @property
    def columns(self) -> int:
        """Outputs of a block."""
        return self.heights * SIDE

    @property
    def shared(self) -> int:
        """Sums of a block, each row's with a gap, so that what neighbouring lanes read lies in different banks."""
        return SIDE * self.heights * (self.lanes + 1)


@T.macro
def finish_gemv(out, sums, part, bias, residual, first, thread, walk, end, finish, dtype):
    """Give each of a row's results to one lane, which adds up what all lanes have of it and stores it."""
    for i in T.unroll(SIDE):
        part[(i * walk.heights + thread[0]) * (walk.lanes + 1) + thread[1]] = (
            sums[i * 4] + sums[i * 4 + 1] + sums[i * 4 + 2] + sums[i * 4 + 3]
        )
    T.tvm_storage_sync("shared")
    total = T.alloc_buffer((1,), "float32", scope="local")
    for turn in T.serial(-(-SIDE // walk.lanes)):
        r: T.let = turn * walk.lanes + thread[1]
        n: T.let = first + r
        if r < SIDE and n < end:
            total[0] = T.float32(0)
            for lane in T.unroll(walk.lanes):
                total[0] = total[0] + part[(r * walk.heights + thread[0]) * (walk.lanes + 1) + lane]
            out[0, n] = finished(total[0], bias[n], residual[0, n], finish, dtype)


@dataclass(frozen=True)
class Tiling:
    threads: int

    @classmethod
    def of(cls, limits: Limits, dtype: str) -> Tiling:
        tiling = cls(min(GEMM_THREADS, limits.threads))
        limits.require(tiling.threads, (tiling.rows + COLUMNS) * PITCH * 4, dtype)
        return tiling

    @property
    def height(self) -> int:
        return self.threads // 16

    @property
    def rows(self) -> int:
        return 4 * self.height


@T.macro
def clear(sums):
    for r in T.unroll(16):
        sums[r] = T.float32(0)


@T.macro
def load_tile(tile, source, first, rows, end, step, t, threads):
    """`rows` rows of `source` from `first` on, at inputs `step · DEPTH` on; rows beyond the last repeat it."""
    for turn in T.unroll(rows * DEPTH // 4 // threads):
        at: T.let = turn * threads + t
        tile[four(at // (DEPTH // 4) * PITCH + at % (DEPTH // 4) * 4)] = T.Cast(
            "float32x4", source[T.min(first + at // (DEPTH // 4), end - 1), four(step * DEPTH + at % (DEPTH // 4) * 4)]
        )


@T.macro
def multiply_tiles(sums, tile_x, tile_w, t, left, tiling):
    """Add the product of two tiles to the sums of a thread; of x, only `left` rows are wanted."""
    of_x = T.alloc_buffer((4,), "float32", scope="local")
    of_w = T.alloc_buffer((16,), "float32", scope="local")
    for k in T.serial(DEPTH // 4):
        for j in T.unroll(4):
            of_w[four(j * 4)] = tile_w[four((t % 16 + j * 16) * PITCH + k * 4)]
        for r in T.unroll(4):
            # The same for the whole block: a batch of a few rows costs a quarter of a whole tile.
            if r * tiling.height < left:
                of_x[four(0)] = tile_x[four((t // 16 + r * tiling.height) * PITCH + k * 4)]
                for j in T.unroll(4):
                    for i in T.unroll(4):
                        sums[r * 4 + j] = sums[r * 4 + j] + of_x[i] * of_w[j * 4 + i]


@T.macro
def store_tile(out, sums, bias, residual, first_row, first_column, t, ends, tiling, finish, dtype):
    for r in T.unroll(4):
        for j in T.unroll(4):
            m: T.let = first_row + t // 16 + r * tiling.height
            n: T.let = first_column + t % 16 + j * 16
            if m < ends[0] and n < ends[1]:
                out[m, n] = finished(sums[r * 4 + j], bias[n], residual[m, n], finish, dtype)
