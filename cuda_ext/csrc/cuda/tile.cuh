// Running a program for a tile of rows on one thread block.
#pragma once

#include "products.cuh"
#include "rows.cuh"

namespace genpolicy {
namespace cuda {

// Floats from row to row of a tile: 8 modulo 32, so that rows beside each other start in different
// banks. All registers of a row lie together, where program.h puts them.
GP_HD int64_t ld_of(int64_t row_floats) { return row_floats + (row_floats % 32 == 0 ? 8 : 24); }

// The threads of a block, for kRows rows. Every function ends with all of them together.
template <int kRows>
struct BlockTeam {
  static __device__ __forceinline__ int rows() { return kRows; }
  static __device__ __forceinline__ void settle() {}

  template <class Use>
  __device__ __forceinline__ void on_rows(int ld, Use use) const {
#pragma unroll 1
    for (int row = threadIdx.x / kLanesOfRow; row < kRows; row += kThreads / kLanesOfRow)
      use(row, row * ld);
    __syncthreads();
  }

  template <class Use>
  __device__ __forceinline__ void on_floats(int ld, int n, Use use) const {
    on_rows(ld, [&](int, int first) {
#pragma unroll 1
      for (int k = threadIdx.x % kLanesOfRow; k < n; k += kLanesOfRow) use(first + k, k);
    });
  }

  template <class Use>
  __device__ __forceinline__ void on_each(int n, Use use) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += kThreads) use(i);
    __syncthreads();
  }
};

// What a block does to the kRows rows of a tile.
template <int kRows, bool kBf16>
struct Tile {
  const Machine<BlockTeam<kRows>> machine;
  uint32_t* const stream;  // of weights

  __device__ __forceinline__ void linear(const int64_t* i, int e) const {
    const Program& program = machine.program;
    const int n_out = static_cast<int>(i[kFieldOut]);
    Product p;
    p.inputs = machine.at(i[kFieldSrc]);
    p.n_in = static_cast<int>(i[kFieldIn]);
    p.depth = kBf16 ? (p.n_in + 1) / 2 : p.n_in;
    // Places in weights count its numbers: two of bfloat16 are a word.
    p.weights = static_cast<const uint32_t*>(program.weights) + i[kFieldWeights] / (kBf16 ? 2 : 1);
    p.vector = program.vectors + i[kFieldVector] + e * i[kFieldStride];
    p.extra = i[kFieldSrc2] < 0 ? nullptr : machine.at(i[kFieldSrc2]);
    p.out = machine.at(i[kFieldDst]);
    p.accumulates = i[kFieldAccumulate] != 0;
    p.ld = machine.ld;
    p.stream = stream;
    multiply<kRows, kBf16>(p, n_out);
    if (i[kFieldActivation] != kNone)
      machine.activate(i[kFieldActivation], p.out, p.out, static_cast<int>(padded(n_out)), nullptr);
  }

  __device__ __forceinline__ void sample(int tile) const {
    const Program& program = machine.program;
    machine.sample(tile, [&](int e) {
      const int n_prologue = static_cast<int>(program.head(kHeadPrologue));
      const int end = e < 0 ? n_prologue : n_prologue + static_cast<int>(program.head(kHeadBody));
#pragma unroll 1
      for (int number = e < 0 ? 0 : n_prologue; number < end; ++number) {
        const int64_t* i = program.instruction(number);
        if (i[kFieldOp] == kOpLinear)
          linear(i, e < 0 ? 0 : e);
        else
          machine.run(i, e < 0 ? 0 : e);
      }
    });
  }
};

}  // namespace cuda
}  // namespace genpolicy
