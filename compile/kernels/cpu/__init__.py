"""CPU kernels in TVMScript: portable vector code that LLVM turns into AVX2, AVX-512 or NEON.

One module an operation. Every kernel is a function of its static shape that returns a TIR `PrimFunc`; the
number of vector lanes is part of it, because it decides the layout of packed weights and keys.

Dimensions: M rows of activations (tokens), N outputs, K inputs, G = K / 32 groups, L vector lanes.
"""
