// Runs GPU kernels on the processor, block after block, the threads of a block as coroutines: one runs until its next
// barrier, then the next one does. In rising and in falling order of the threads, two that touch the same value with
// no barrier between them do not both times come in the same order, so a race shows as a difference.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

// Shared memory lies in a section of its own, so that every block can find NaN in it at first.
#define SHARED_MEMORY static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory[] __attribute__((weak)), __stop_shared_memory[] __attribute__((weak));

namespace blocks {

struct index3 {
  unsigned x, y, z;
};

constexpr int MOST_THREADS = 1024;
constexpr size_t STACK = 1 << 16;
enum State { STARTING, WAITING, DONE };

static index3 block_index, thread_index;
static State states[MOST_THREADS];
static jmp_buf resumptions[MOST_THREADS], scheduler;
static ucontext_t starts[MOST_THREADS];
static int running, shuffles[MOST_THREADS];
static void (*body)(void **);
static void **arguments;

static void start() {
  body(arguments);
  states[running] = DONE;
  _longjmp(scheduler, 1);
}

static void barrier() {
  states[running] = WAITING;
  if (!_setjmp(resumptions[running])) _longjmp(scheduler, 1);
}

// What another thread of the 32 of a warp gave. All threads of the block must come here together, as ours and TVM's do.
static float shuffle(float value, int lane) {
  static float given[2][MOST_THREADS];
  const int me = running, side = shuffles[me]++ % 2;
  given[side][me] = value;
  barrier();
  return given[side][me / 32 * 32 + lane % 32];
}

static void advance() {
  if (_setjmp(scheduler)) return;
  if (states[running] == WAITING) _longjmp(resumptions[running], 1);
  setcontext(&starts[running]);
}

// 0, or 1 when some threads of a block ended while others waited at a barrier, or 2 for a block that is too large.
static int run(void (*kernel)(void **), void **given, const int *grid, const int *size, int falling) {
  static char *stacks = (char *)mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const int count = size[0] * size[1] * size[2], grid_size = grid[0] * grid[1] * grid[2];
  if (count > MOST_THREADS) return 2;
  body = kernel, arguments = given;
  for (int at = 0; at < grid_size; ++at) {
    const int b = falling ? grid_size - 1 - at : at;
    block_index = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
    if (__start_shared_memory) memset(__start_shared_memory, 0xFF, __stop_shared_memory - __start_shared_memory);
    for (int t = 0; t < count; ++t) {
      getcontext(&starts[t]);
      starts[t].uc_stack.ss_sp = stacks + t * STACK;
      starts[t].uc_stack.ss_size = STACK;
      starts[t].uc_link = nullptr;
      makecontext(&starts[t], start, 0);
      states[t] = STARTING, shuffles[t] = 0;
    }
    for (int live = count; live;) {
      int waiting = 0;
      for (int turn = 0; turn < count; ++turn) {
        const int t = falling ? count - 1 - turn : turn;
        if (states[t] == DONE) continue;
        thread_index = {unsigned(t % size[0]), unsigned(t / size[0] % size[1]), unsigned(t / size[0] / size[1])};
        running = t;
        advance();
        waiting += states[t] == WAITING;
      }
      if (waiting && waiting != live) return 1;
      live = waiting;
    }
  }
  return 0;
}

}  // namespace blocks

typedef _Float16 half;

template <typename T>
struct vector2 {
  T x, y;
  vector2() = default;
  vector2(T x, T y) : x(x), y(y) {}
  template <typename S>
  explicit vector2(vector2<S> v) : x(T(v.x)), y(T(v.y)) {}
  T &operator[](int i) { return (&x)[i]; }
};

template <typename T>
struct vector3 {
  T x, y, z;
};

template <typename T>
struct vector4 {
  T x, y, z, w;
  vector4() = default;
  vector4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
  template <typename S>
  explicit vector4(vector4<S> v) : x(T(v.x)), y(T(v.y)), z(T(v.z)), w(T(v.w)) {}
  T &operator[](int i) { return (&x)[i]; }
};

#define ELEMENTWISE(op)                                  \
  template <typename T>                                  \
  vector2<T> operator op(vector2<T> a, vector2<T> b) {   \
    return {T(a.x op b.x), T(a.y op b.y)};               \
  }                                                      \
  template <typename T>                                  \
  vector4<T> operator op(vector4<T> a, vector4<T> b) {   \
    return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z), T(a.w op b.w)}; \
  }
ELEMENTWISE(+)
ELEMENTWISE(-)
ELEMENTWISE(*)
ELEMENTWISE(/)
ELEMENTWISE(&)
ELEMENTWISE(|)
ELEMENTWISE(<<)
ELEMENTWISE(>>)
#undef ELEMENTWISE

typedef vector2<int> int2;
typedef vector2<unsigned> uint2;
typedef vector2<float> float2;
typedef vector3<unsigned> uint3;
typedef vector4<int> int4;
typedef vector4<unsigned> uint4;
typedef vector4<float> float4;
typedef vector2<int64_t> longlong2;
typedef vector4<int64_t> longlong4;

template <typename T>
static T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
static T max(T a, T b) {
  return a < b ? b : a;
}

static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
