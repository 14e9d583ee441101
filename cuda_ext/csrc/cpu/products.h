// Matrix products of a few rows with packed weights, for one instruction set.
//
// Included through isa.h by each of the cpu/isa_*.cpp with GP_ISA naming the set and GP_VECTOR_BYTES its registers.
// Every output is summed over its inputs in one fixed order (in four interleaved sums where a layer
// has one panel), whatever the number of rows: a row's result does not depend on the batch.
#pragma once

#include "../program.h"

namespace genpolicy {
namespace GP_ISA {

constexpr int kLanes = GP_VECTOR_BYTES / 4;
constexpr int kPerPanel = 16 / kLanes;  // registers of a panel
// Rows that are multiplied together; 2 more registers hold a weight and an input.
constexpr int kMostRows = GP_VECTOR_BYTES == 64 ? 12 : GP_VECTOR_BYTES == 32 ? 6 : 3;

typedef float Vector __attribute__((vector_size(GP_VECTOR_BYTES)));
typedef float LooseVector __attribute__((vector_size(GP_VECTOR_BYTES), aligned(4)));

// Keeps a vector in a register, of all 32 where there are as many.
#if defined(__AVX512F__)
#define GP_IN_REGISTER(value) asm volatile("" : "+v"(value))
#elif defined(__x86_64__)
#define GP_IN_REGISTER(value) asm volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define GP_IN_REGISTER(value) asm volatile("" : "+w"(value))
#else
#define GP_IN_REGISTER(value) asm volatile("" : "+m"(value))
#endif

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
  int64_t activation;     // of the sums, see multiply.h
  bool is_half;           // a panel alone, of which only the first eight outputs are not padding
  const uint32_t* words;  // inputs in bfloat16, (rows, ld_words), for such weights
  int64_t ld_words;
  int64_t words_of_piece;    // from a piece of a row to its next
  int64_t weights_of_piece;  // from a piece of the layer's weights to its next
  uint32_t* next;            // where a matrix unit writes the outputs as words of one piece, or null
  int64_t ld_next;
};

// Sums of a row from `column` on, and what the product starts from: added first, a large one would round
// every term. `out` and `extra` (or null) are where the row has them.
inline Vector finished(const Product& p, Vector sum, int64_t column, const float* out,
                       const float* extra) {
  if (p.vector) sum += load(p.vector + column);
  if (extra) sum += load(extra);
  if (p.accumulates) sum += load(out);
  return sum;
}

template <int kRows, int kCount>
inline void finish(const Product& p, int64_t row, int64_t column, const Vector (&sums)[kRows][kCount]) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    float* out = p.out + (row + i) * p.ld_out + column;
    const float* extra = p.extra ? p.extra + (row + i) * p.ld_extra + column : nullptr;
#pragma GCC unroll 16
    for (int j = 0; j < kCount; ++j) {
      const int64_t at = j * kLanes;
      store(out + at, finished(p, sums[i][j], column + at, out + at, extra ? extra + at : nullptr));
    }
  }
}

template <int kRows, int kPanels>
void product_f32(const Product& p, int64_t row, int64_t panel) {
  Vector sums[kRows][kPanels * kPerPanel] = {};
  const float* w = static_cast<const float*>(p.weights) + panel * p.n_in * kPanel;
  const float* a[(kRows + 3) / 4];  // every fourth row: the others are at small multiples of ld_in
#pragma GCC unroll 16
  for (int g = 0; g < (kRows + 3) / 4; ++g) a[g] = p.inputs + (row + 4 * g) * p.ld_in;
  const int64_t stride = p.n_in * kPanel;
  for (int64_t k = 0; k < p.n_in; ++k, w += kPanel) {
    Vector b[kPanels * kPerPanel];
#pragma GCC unroll 16
    for (int j = 0; j < kPanels * kPerPanel; ++j) {
      b[j] = load(w + (j / kPerPanel) * stride + (j % kPerPanel) * kLanes);
      if constexpr (GP_VECTOR_BYTES == 64 && kRows > 1) GP_IN_REGISTER(b[j]);  // not read for each row
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector x = a[i / 4][i % 4 * p.ld_in + k] - Vector{};
#pragma GCC unroll 16
      for (int j = 0; j < kPanels * kPerPanel; ++j) sums[i][j] += x * b[j];
    }
  }
  finish(p, row, panel * kPanel, sums);
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
  finish(p, row, panel * kPanel, sums);
}

#if GP_VECTOR_BYTES == 64 && defined(__GNUC__) && !defined(__clang__)
constexpr bool kHasHalves = true;

// Half a panel: two inputs side by side, [w(k)[0], w(k + 1)[0], w(k)[1], ...], in eight interleaved sums.
template <int kRows>
void half_f32(const Product& p, int64_t row) {
  typedef int32_t Places __attribute__((vector_size(64)));
  const Places pairs = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const Places firsts = {0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16};  // and zeros
  const Places seconds = {1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16};
  const float* w = static_cast<const float*>(p.weights);
  const float* a = p.inputs + row * p.ld_in;
  Vector parts[4][kRows] = {}, sums[kRows][1] = {};
  const int64_t whole = p.n_in / 8 * 8;
  for (int64_t k = 0; k < whole; k += 8)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const float* at = w + (k + 2 * q) * kPanel;
      const Vector both = __builtin_shuffle(load(at), load(at + kPanel), pairs);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        double pair;
        memcpy(&pair, a + i * p.ld_in + k + 2 * q, sizeof pair);
        typedef double Doubles __attribute__((vector_size(64)));
        parts[q][i] += (Vector)(pair - Doubles{}) * both;
      }
    }
  for (int64_t k = whole; k < p.n_in; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
      sums[i][0] += (a[i * p.ld_in + k] - Vector{}) * load(w + k * kPanel);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const Vector all = (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
    sums[i][0] += __builtin_shuffle(all, Vector{}, firsts) + __builtin_shuffle(all, Vector{}, seconds);
  }
  finish(p, row, 0, sums);
}
#else
constexpr bool kHasHalves = false;

template <int kRows>
void half_f32(const Product&, int64_t) {}
#endif

}  // namespace GP_ISA
}  // namespace genpolicy
