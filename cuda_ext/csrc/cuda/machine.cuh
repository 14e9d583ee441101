// What of a GPU is no C++: shared memory by size, copies that do not wait, tensor cores, shuffles.
//
// Everything else of the kernels is ordinary C++. The tests compile the same sources for the CPU, with
// GENPOLICY_EMULATED set and their own cuda_runtime.h, which then defines the functions of this file.
#pragma once

#include <cuda_runtime.h>

#include "../program.h"

namespace genpolicy {
namespace cuda {

// 8 warps: two or more for each of the four schedulers of a multiprocessor hide each other's latency.
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Lanes that share a row in elementwise work and sums: those of the CPU's sums, so that both agree.
constexpr int kLanesOfRow = 16;

// Four words that are loaded and stored in one piece.
template <class T>
struct alignas(16) Four {
  T at[4];
};

#if defined(GENPOLICY_EMULATED)
using emulated::dynamic_shared;
using emulated::copy_later;
using emulated::end_of_copies;
using emulated::wait_for_copies;
using emulated::multiply_16x8x16;
using emulated::sum_of;
using emulated::pair_of_bf16;
using emulated::count_up;
using emulated::wait_until;
#else

__device__ __forceinline__ uint32_t* dynamic_shared() {
  extern __shared__ uint4 genpolicy_shared[];
  return reinterpret_cast<uint32_t*>(genpolicy_shared);
}

// Copies 16 bytes from global to shared memory, past the registers and the first cache.
__device__ __forceinline__ void copy_later(uint32_t* to, const uint32_t* from) {
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
}

// Ends a group of copies; this thread's groups arrive in order.
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the last kLeft groups of this thread are under way.
template <int kLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// c += a b of a warp: a is 16 x 16 and b 16 x 8 bfloat16, c 16 x 8 float32. With g = lane / 4 and
// q = lane % 4, a thread holds two numbers beside each other a word:
//   a  rows g, g + 8, g, g + 8, columns 2q, 2q, 2q + 8, 2q + 8 and the next of each
//   b  rows 2q, 2q + 8 and the next of each, column g
//   c  rows g, g, g + 8, g + 8, columns 2q, 2q + 1, 2q, 2q + 1
__device__ __forceinline__ void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The sum over kLanes lanes beside each other, the same in each: lane j adds j + kLanes / 2, and so on.
template <int kLanes>
__device__ __forceinline__ float sum_of(float value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  return value;
}

// Two numbers rounded to bfloat16, to the nearest and halves to even; the first is the lower half.
__device__ __forceinline__ uint32_t pair_of_bf16(float first, float second) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

// Adds 1 to a counter of the whole device and returns what it was. What this thread saw or wrote before
// is seen by threads that find the counter raised.
__device__ __forceinline__ uint32_t count_up(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Waits until a counter has reached a number, modulo 2^32.
__device__ __forceinline__ void wait_until(const uint32_t* counter, uint32_t number) {
  uint32_t now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while (static_cast<int32_t>(now - number) < 0);
}

#endif

}  // namespace cuda
}  // namespace genpolicy
