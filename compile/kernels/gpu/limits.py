"""What a kernel may ask of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.contracts.errors import UnknownTarget


@dataclass(frozen=True)
class Limits:
    """A GPU's limits. The defaults are what every GPU has that runs Vulkan or Metal."""

    threads: int = 256
    """Most threads of a block, a power of two."""
    shared_bytes: int = 32768
    """Most shared memory of a block."""
    warp: int = 32
    """Threads that run in step (subgroup, SIMD group): how many share a row of weights. A power of two."""
    float16: bool = True
    """Whether it computes and stores float16."""

    def require(self, threads: int, shared_bytes: int, dtype: str) -> None:
        """Raise UnknownTarget when a kernel needs more than there is."""
        if threads > self.threads or shared_bytes > self.shared_bytes:
            raise UnknownTarget(
                f"a kernel needs {threads} threads and {shared_bytes} bytes of shared memory a block, "
                f"but this GPU has {self.threads} and {self.shared_bytes}",
                "Choose another target.",
            )
        if dtype == "float16" and not self.float16:
            raise UnknownTarget("this GPU has no float16", "Use a scheme in float32, such as --quantization q0f32.")
