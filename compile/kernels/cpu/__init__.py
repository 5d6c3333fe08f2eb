"""CPU kernels in TVMScript: portable vector code that LLVM turns into AVX2, AVX-512 or NEON.

One module an operation. Every kernel is a function of its static shape that returns a TIR `PrimFunc`; the
number of vector lanes is part of it, because it decides the layout of packed weights and keys.

Every layer asks for its own kernel, and TVMScript reads the whole call stack to parse one, so factories keep what they
made.

Dimensions: M rows of activations (tokens), N outputs, K inputs, G = K / 32 groups, L vector lanes.
"""
