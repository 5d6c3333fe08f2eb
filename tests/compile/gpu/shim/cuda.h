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
#define make_int2 int2
#define make_int4 int4
#define make_uint4 uint4
#define make_float2 float2
#define make_float4 float4
#define make_longlong2 longlong2
#define make_longlong4 longlong4
static inline unsigned __activemask() { return ~0u; }
static inline float __shfl_sync(unsigned, float x, int lane, int) { return blocks::shuffle(x, lane); }
static inline float __shfl_down_sync(unsigned, float x, int offset, int) {
  return blocks::shuffle(x, blocks::running % 32 + offset);
}
static inline float rsqrtf(float x) { return rsqrt(x); }
