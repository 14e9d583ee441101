// All blocks of a device as a team, and how they wait for each other.
#pragma once

#include "jobs.h"
#include "rows.cuh"

namespace genpolicy {
namespace cuda {

struct GridArguments {
  Arguments rows;
  const Job* jobs;
  int n_prologue, n_jobs;
  int n_rows;          // at a time
  uint32_t* arrived;   // of blocks that wait for all others
  uint32_t* counters;  // of items that are done
  float* partials;     // sums of chunks
};

// Waits for all blocks of the launch, which have to be on the device together.
struct GridBarrier {
  uint32_t* const arrived;
  uint32_t* const turn;  // in shared memory: how often this block has waited

  __device__ __forceinline__ void wait() const {
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t number = ++*turn;
      count_up(arrived);
      wait_until(arrived, number * gridDim.x);
    }
    __syncthreads();
  }
};

// The threads of all blocks, for all rows that are worked on.
struct GridTeam {
  const int n;
  const GridBarrier barrier;

  __device__ __forceinline__ int rows() const { return n; }
  __device__ __forceinline__ void settle() const { barrier.wait(); }
  static __device__ __forceinline__ int first() { return static_cast<int>(blockIdx.x) * kThreads + threadIdx.x; }
  static __device__ __forceinline__ int step() { return static_cast<int>(gridDim.x) * kThreads; }

  // A warp works on two rows, so that sums over lanes have whole warps; there is a row behind an odd last one.
  template <class Use>
  __device__ __forceinline__ void on_rows(int ld, Use use) const {
#pragma unroll 1
    for (int row = first() / kLanesOfRow; row < n + n % 2; row += step() / kLanesOfRow) use(row, row * ld);
  }

  template <class Use>
  __device__ __forceinline__ void on_floats(int ld, int width, Use use) const {
#pragma unroll 1
    for (int i = first(); i < n * width; i += step()) use(i / width * ld + i % width, i % width);
  }

  template <class Use>
  __device__ __forceinline__ void on_each(int n_items, Use use) const {
#pragma unroll 1
    for (int i = first(); i < n_items; i += step()) use(i);
  }
};

}  // namespace cuda
}  // namespace genpolicy
