"""GPU kernels in TVMScript, one source for CUDA, Metal and Vulkan.

One module an operation. Every kernel is a function of its static shape that returns a TIR `PrimFunc`, bound to blocks
and threads already. Weights stay in MLC's own layout, so nothing is packed on loading. Activations have the dtype of
the scheme; sums are float32. Within a block threads meet at barriers and in shared memory only: no kernel asks how
wide a warp is to be right.

Dimensions: M rows of activations (tokens; symbolic), N outputs, K inputs, a multiple of 32.
"""
