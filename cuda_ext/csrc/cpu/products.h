// Matrix products of a few rows with packed weights, for one instruction set.
//
// Included by each of the cpu/isa_*.cpp with GP_ISA naming the set and GP_VECTOR_BYTES its registers.
// Every output is summed over its inputs in one fixed order (in four interleaved sums where a layer
// has one panel), whatever the number of rows: a row's result does not depend on the batch.
#pragma once

#include "../program.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace genpolicy {
namespace GP_ISA {

constexpr int kLanes = GP_VECTOR_BYTES / 4;
constexpr int kPerPanel = 16 / kLanes;  // registers of a panel
// Rows that are multiplied together; 2 more registers hold a weight and an input.
constexpr int kMostRows = GP_VECTOR_BYTES == 64 ? 12 : GP_VECTOR_BYTES == 32 ? 6 : 3;

typedef float Vector __attribute__((vector_size(GP_VECTOR_BYTES)));
typedef float LooseVector __attribute__((vector_size(GP_VECTOR_BYTES), aligned(4)));

inline Vector load(const float* at) { return *reinterpret_cast<const LooseVector*>(at); }
inline void store(float* at, Vector value) { *reinterpret_cast<LooseVector*>(at) = value; }

constexpr int panels_for(int rows) {
  if (GP_VECTOR_BYTES == 64) return rows <= 6 ? 4 : 2;
  if (GP_VECTOR_BYTES == 32) return rows <= 1 ? 4 : rows <= 3 ? 2 : 1;
  return rows <= 1 ? 2 : 1;
}

// What a product starts from and where it goes.
struct Product {
  const float* inputs;  // (rows, ld_in)
  int64_t ld_in;
  const void* weights;  // the layer's first panel
  int64_t n_in;
  const float* vector;  // added to every row, or null
  const float* extra;   // added to each row, or null
  int64_t ld_extra;
  float* out;
  int64_t ld_out;
  bool accumulates;
  const uint32_t* pairs;  // inputs as pairs of bfloat16, (rows, ld_pairs), for bfloat16 weights
  int64_t ld_pairs;
};

// Adds what a product starts from after its sums: added first, a large one would round every term.
template <int kRows, int kPanels>
inline void finish(const Product& p, int64_t row, int64_t panel,
                   const Vector (&sums)[kRows][kPanels * kPerPanel]) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kPanels * kPerPanel; ++j) {
      const int64_t column = panel * kPanel + j * kLanes;
      Vector value = sums[i][j];
      if (p.vector) value += load(p.vector + column);
      if (p.extra) value += load(p.extra + (row + i) * p.ld_extra + column);
      if (p.accumulates) value += load(p.out + (row + i) * p.ld_out + column);
      store(p.out + (row + i) * p.ld_out + column, value);
    }
}

template <int kRows, int kPanels>
void product_f32(const Product& p, int64_t row, int64_t panel) {
  Vector sums[kRows][kPanels * kPerPanel] = {};
  const float* w = static_cast<const float*>(p.weights) + panel * p.n_in * kPanel;
  const float* a = p.inputs + row * p.ld_in;
  const int64_t stride = p.n_in * kPanel;
  for (int64_t k = 0; k < p.n_in; ++k, w += kPanel, ++a) {
    Vector b[kPanels * kPerPanel];
#pragma GCC unroll 16
    for (int j = 0; j < kPanels * kPerPanel; ++j)
      b[j] = load(w + (j / kPerPanel) * stride + (j % kPerPanel) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector x = a[i * p.ld_in] - Vector{};
#pragma GCC unroll 16
      for (int j = 0; j < kPanels * kPerPanel; ++j) sums[i][j] += x * b[j];
    }
  }
  finish<kRows, kPanels>(p, row, panel, sums);
}

// One panel: four interleaved sums hide the latency that a single chain of additions would show.
template <int kRows>
void narrow_f32(const Product& p, int64_t row, int64_t panel) {
  Vector sums[kRows][kPerPanel] = {};
  const float* w = static_cast<const float*>(p.weights) + panel * p.n_in * kPanel;
  const float* a = p.inputs + row * p.ld_in;
  Vector parts[4][kRows][kPerPanel] = {};
  const int64_t whole = p.n_in / 4 * 4;
  for (int64_t k = 0; k < whole; k += 4)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q)
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vector x = a[i * p.ld_in + k + q] - Vector{};
#pragma GCC unroll 16
        for (int j = 0; j < kPerPanel; ++j)
          parts[q][i][j] += x * load(w + (k + q) * kPanel + j * kLanes);
      }
  for (int64_t k = whole; k < p.n_in; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector x = a[i * p.ld_in + k] - Vector{};
#pragma GCC unroll 16
      for (int j = 0; j < kPerPanel; ++j) sums[i][j] += x * load(w + k * kPanel + j * kLanes);
    }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kPerPanel; ++j)
      sums[i][j] += (parts[0][i][j] + parts[1][i][j]) + (parts[2][i][j] + parts[3][i][j]);
  finish<kRows, 1>(p, row, panel, sums);
}

// Weights as bfloat16, two inputs of a column beside each other; sums are float32.
template <int kRows, int kPanels>
void product_bf16(const Product& p, int64_t row, int64_t panel) {
  Vector sums[kRows][kPanels * kPerPanel] = {};
  const int64_t n_pairs = (p.n_in + 1) / 2, stride = n_pairs * kPanel;
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * stride;
  const uint32_t* a = p.pairs + row * p.ld_pairs;
  for (int64_t k = 0; k < n_pairs; ++k, w += kPanel, ++a) {
#if defined(__AVX512BF16__)
    __m512bh b[kPanels];
#pragma GCC unroll 16
    for (int j = 0; j < kPanels; ++j) b[j] = (__m512bh)_mm512_loadu_si512(w + j * stride);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * p.ld_pairs]));
#pragma GCC unroll 16
      for (int j = 0; j < kPanels; ++j)
        sums[i][j] = (Vector)_mm512_dpbf16_ps((__m512)sums[i][j], x, b[j]);
    }
#else
    typedef uint32_t Ints __attribute__((vector_size(GP_VECTOR_BYTES)));
    typedef uint32_t LooseInts __attribute__((vector_size(GP_VECTOR_BYTES), aligned(4)));
    Vector even[kPanels * kPerPanel], odd[kPanels * kPerPanel];
#pragma GCC unroll 16
    for (int j = 0; j < kPanels * kPerPanel; ++j) {
      const uint32_t* at = w + (j / kPerPanel) * stride + (j % kPerPanel) * kLanes;
      const Ints both = *reinterpret_cast<const LooseInts*>(at);
      even[j] = (Vector)(both << 16);
      odd[j] = (Vector)(both & 0xFFFF0000u);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const uint32_t both = a[i * p.ld_pairs];
      const Vector x0 = bits_of<float>(both << 16) - Vector{};
      const Vector x1 = bits_of<float>(both & 0xFFFF0000u) - Vector{};
#pragma GCC unroll 16
      for (int j = 0; j < kPanels * kPerPanel; ++j) {
        sums[i][j] += x0 * even[j];
        sums[i][j] += x1 * odd[j];
      }
    }
#endif
  }
  finish<kRows, kPanels>(p, row, panel, sums);
}

// All rows of a tile in groups of kRows at most, over n_panels panels, several at a time.
template <int kRows, int kPanels, bool kBf16>
inline void panels_of_rows(const Product& p, int64_t row, int64_t panel) {
  if constexpr (kBf16)
    product_bf16<kRows, kPanels>(p, row, panel);
  else
    product_f32<kRows, kPanels>(p, row, panel);
}

template <int kPanels, bool kBf16>
inline void rows_at(const Product& p, int64_t row, int64_t n_rows, int64_t panel) {
  switch (n_rows) {
#define GP_ROWS(n)                                                                        \
  case n:                                                                                 \
    if constexpr (n <= kMostRows && kPanels <= panels_for(n))                             \
      panels_of_rows<n, kPanels, kBf16>(p, row, panel);                                   \
    break;
    GP_ROWS(1) GP_ROWS(2) GP_ROWS(3) GP_ROWS(4) GP_ROWS(5) GP_ROWS(6)
    GP_ROWS(7) GP_ROWS(8) GP_ROWS(9) GP_ROWS(10) GP_ROWS(11) GP_ROWS(12)
#undef GP_ROWS
  }
}

inline void narrow_at(const Product& p, int64_t row, int64_t n_rows) {
  constexpr int kMost = GP_VECTOR_BYTES == 64 ? 6 : 1;
  for (int64_t done = 0; done < n_rows;) {
    const int64_t left = n_rows - done;
    switch (left < kMost ? left : kMost) {
#define GP_NARROW(n)                                            \
  case n:                                                       \
    if constexpr (n <= kMost) narrow_f32<n>(p, row + done, 0);  \
    done += n;                                                  \
    break;
      GP_NARROW(1) GP_NARROW(2) GP_NARROW(3) GP_NARROW(4) GP_NARROW(5) GP_NARROW(6)
#undef GP_NARROW
    }
  }
}

// The panels [begin, end) of a layer of n_panels.
template <bool kBf16>
inline void multiply_panels(const Product& p, int64_t n_rows, int64_t n_panels, int64_t begin,
                            int64_t end) {
  const int64_t n_groups = (n_rows + kMostRows - 1) / kMostRows;
  const int64_t group = (n_rows + n_groups - 1) / n_groups;  // nearly equal groups
  const int64_t most = panels_for(static_cast<int>(group));
  for (int64_t panel = begin; panel < end;) {
    const int64_t left = end - panel;
    const int64_t width = left >= 8 && most >= 8 ? 8 : left >= 4 && most >= 4 ? 4
                          : left >= 2 && most >= 2 ? 2 : 1;
    for (int64_t row = 0; row < n_rows; row += group) {
      const int64_t rows = n_rows - row < group ? n_rows - row : group;
      if (!kBf16 && n_panels == 1) {
        narrow_at(p, row, rows);
        continue;
      }
      switch (width) {
        case 8: rows_at<8, kBf16>(p, row, rows, panel); break;
        case 4: rows_at<4, kBf16>(p, row, rows, panel); break;
        case 2: rows_at<2, kBf16>(p, row, rows, panel); break;
        default: rows_at<1, kBf16>(p, row, rows, panel);
      }
    }
    panel += width;
  }
}

template <bool kBf16>
inline void multiply(const Product& p, int64_t n_rows, int64_t n_out) {
  const int64_t n_panels = (n_out + kPanel - 1) / kPanel;
  multiply_panels<kBf16>(p, n_rows, n_panels, 0, n_panels);
}

}  // namespace GP_ISA
}  // namespace genpolicy
