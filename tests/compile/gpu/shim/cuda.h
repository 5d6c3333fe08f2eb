// As much of CUDA C as TVM's kernels use.
#pragma once
#include "blocks.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)
#define __align__(bytes)
#define alignas(bytes)
#define __shared__ SHARED_MEMORY
#define __syncthreads blocks::barrier
#define threadIdx blocks::thread_index
#define blockIdx blocks::block_index

typedef half __half;
typedef vector2<half> half2, __half2;

static inline bool __hgt(half a, half b) { return a > b; }
static inline bool __hlt(half a, half b) { return a < b; }
static inline float __half2float(half x) { return x; }
static inline half __float2half(float x) { return x; }
static inline half __float2half_rn(float x) { return x; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline longlong4 make_longlong4(int64_t x, int64_t y, int64_t z, int64_t w) { return {x, y, z, w}; }
static inline unsigned __activemask() { return ~0u; }
static inline float __shfl_sync(unsigned, float x, int lane, int) { return blocks::shuffle(x, lane); }
static inline float __shfl_down_sync(unsigned, float x, int offset, int) {
  return blocks::shuffle(x, blocks::running % 32 + offset);
}
static inline float rsqrtf(float x) { return rsqrt(x); }
