// What a thread sums of an item: see products.cuh, whose loops over inputs these are.
#pragma once

#include "jobs.h"
#include "products.cuh"

namespace genpolicy {
namespace cuda {

constexpr int kGridLd = kMostColumns + 8;  // words from word to word of a piece, see kPieceLd

// Sums of a thread: runs of columns beside each other, in rows and columns of an item.
template <int kRows, bool kBf16>
struct Sums;

template <int kRows>
struct Sums<kRows, false> {
  using L = Layout<kRows, 2>;
  static constexpr int kRun = 4, kInputs = kDepth, kInputLd = kDepth + 4;
  float at[1][L::kOwn][4];

  static __device__ __forceinline__ int row() {
    return threadIdx.x / 32 % L::kRowWarps * L::kSpan + threadIdx.x % 32 / 8;
  }
  static __device__ __forceinline__ int column() {
    return threadIdx.x / 32 / L::kRowWarps * 32 + threadIdx.x % 8 * 4;
  }
  __device__ __forceinline__ void add(const float* x, const uint32_t* words, int n_panels) {
    if (column() >= n_panels * kPanel) return;
    add_piece_f32<L, 1, kGridLd>(x + row() * kInputLd, kInputLd, kDepth,
                                 reinterpret_cast<const float*>(words) + column(), at);
  }
  __device__ __forceinline__ void take(Sums& other) {
#pragma unroll
    for (int i = 0; i < L::kOwn; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        at[0][i][j] += other.at[0][i][j];
        other.at[0][i][j] = 0.0f;
      }
  }
  // Calls use(run, row, column).
  template <class Use>
  __device__ __forceinline__ void each(int n_panels, Use use) {
    if (column() >= n_panels * kPanel) return;
#pragma unroll
    for (int i = 0; i < L::kOwn; ++i) use(at[0][i], row() + 4 * i, column());
  }
};

template <int kRows>
struct Sums<kRows, true> {
  static constexpr int kRun = 2, kInputs = 2 * kDepth, kInputLd = 2 * kDepth + 8;
  float at[1][2][kRows / 16][4];

  __device__ __forceinline__ void add(const float* x, const uint32_t* words, int n_panels) {
    add_piece_bf16<kRows, 1, kGridLd, true>(x, kInputLd, 0, kInputs, words, n_panels, at);
  }
  __device__ __forceinline__ void take(Sums& other) {
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          at[0][part][m][i] += other.at[0][part][m][i];
          other.at[0][part][m][i] = 0.0f;
        }
  }
  template <class Use>
  __device__ __forceinline__ void each(int n_panels, Use use) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    if (warp >= n_panels) return;
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          use(&at[0][part][m][2 * i], 16 * m + g + 8 * i, warp * int{kPanel} + part * 8 + 2 * q);
  }
};

}  // namespace cuda
}  // namespace genpolicy
