"""Kernels in TVMScript: `cpu/` for processors, `gpu/` for CUDA, Metal and Vulkan; one module an operation."""
