// Products with weights in bfloat16, two inputs of a column beside each other; sums are float32.
#pragma once

#include "products.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace genpolicy {
namespace GP_ISA {

// Words that hold two inputs of a product: a pair of bfloat16 where there are instructions for pairs, and
// elsewhere two floats that are rounded alike, which then are not taken apart for every panel.
#if defined(__AVX512BF16__)
constexpr int64_t kWordsOfPair = 1;
#else
constexpr int64_t kWordsOfPair = 2;
#endif

// Words of a piece of a row of n inputs: whole blocks of 16 pairs, zeros behind the inputs.
inline int64_t words_of(int64_t n) { return padded((n + 1) / 2) * kWordsOfPair; }

#if defined(__AVX512BF16__)
// 16 floats as kPieces words: the first are the floats rounded, the next what that lacks, rounded, and so
// on. Rounds as to_bf16 does, but that numbers below 1.2e-38 become zeros.
template <int kPieces>
inline void split(Vector floats, uint32_t* to, int64_t words_of_piece) {
#pragma GCC unroll 3
  for (int i = 0; i < kPieces; ++i) {
    const __m256i piece = (__m256i)_mm512_cvtneps_pbh((__m512)floats);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i * words_of_piece), piece);
    floats -= (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(piece), 16);
  }
}
#endif

// Zeros behind the words of n floats and of what pads them to a multiple of 16.
template <int kPieces>
inline void pad_words(uint32_t* to, int64_t n, int64_t words_of_piece) {
  for (int i = 0; i < kPieces; ++i)
    for (int64_t k = padded(n) / 2 * kWordsOfPair; k < words_of_piece; ++k)
      to[i * words_of_piece + k] = 0u;
}

// n floats, with zeros up to a multiple of 16 behind them, as kPieces times words_of_piece words.
template <int kPieces>
inline void to_words(const float* from, uint32_t* to, int64_t n, int64_t words_of_piece) {
#if defined(__AVX512BF16__)
  for (int64_t k = 0; k < padded(n); k += 16)
    split<kPieces>(load(from + k), to + k / 2, words_of_piece);
#else
  static_assert(kPieces == 1, "pieces are for matrix units");
#pragma omp simd
  for (int64_t k = 0; k < padded(n); ++k) to[k] = static_cast<uint32_t>(to_bf16(from[k])) << 16;
#endif
  pad_words<kPieces>(to, n, words_of_piece);
}

template <int kRows, int kPanels>
void product_bf16(const Product& p, int64_t row, int64_t panel) {
  Vector sums[kRows][kPanels * kPerPanel] = {};
  const int64_t n_pairs = (p.n_in + 1) / 2, stride = n_pairs * kPanel;
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * stride;
  const uint32_t* a[(kRows + 3) / 4];  // as in float32
#pragma GCC unroll 16
  for (int g = 0; g < (kRows + 3) / 4; ++g) a[g] = p.words + (row + 4 * g) * p.ld_words;
  for (int64_t k = 0; k < n_pairs; ++k, w += kPanel) {
#if defined(__AVX512BF16__)
    __m512bh b[kPanels];
#pragma GCC unroll 16
    for (int j = 0; j < kPanels; ++j) b[j] = (__m512bh)_mm512_loadu_si512(w + j * stride);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i / 4][i % 4 * p.ld_words + k]));
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
      const uint32_t* both = a[i / 4] + i % 4 * p.ld_words + 2 * k;
      const Vector x0 = bits_of<float>(both[0]) - Vector{};
      const Vector x1 = bits_of<float>(both[1]) - Vector{};
#pragma GCC unroll 16
      for (int j = 0; j < kPanels * kPerPanel; ++j) {
        sums[i][j] += x0 * even[j];
        sums[i][j] += x1 * odd[j];
      }
    }
#endif
  }
  finish(p, row, panel * kPanel, sums);
}

}  // namespace GP_ISA
}  // namespace genpolicy
