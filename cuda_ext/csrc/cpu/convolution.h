// Convolutions and group norms of a tile of rows, for one instruction set.
//
// A grid lies position by position, and the rows of the tile within a position. What one tap of a
// convolution sees is then a run of whole positions: a matrix that is already there, with all rows of
// the tile in it, and positions beyond the ends are left out rather than multiplied by zeros. Weights
// are read once per convolution, panel by panel.
#pragma once

#include <cmath>

#include "kernels.h"
#include "multiply.h"

namespace genpolicy {
namespace GP_ISA {

// Positions of channels: at(p) + r * ld is row r of position p.
struct Grid {
  float* floats;
  int64_t positions;
  int64_t n_rows;
  int64_t ld;

  float* at(int64_t position) const { return floats + position * n_rows * ld; }
  int64_t size() const { return positions * n_rows * ld; }
};

struct Convolution {
  Grid src, dst;
  const uint32_t* words;  // src in bfloat16, for such weights
  int64_t words_of_piece, words_of_row;
  const void* weights;  // (pieces, taps, n_panels, n_in, kPanel)
  const float* vector;
  int64_t n_in, n_panels;
  int64_t length, taps, hop, before, every, place;
  bool accumulates;
};

template <int kPieces>
void convolve_panels(const Convolution& c, int64_t begin, int64_t end) {
  const int64_t n_rows = c.src.n_rows;
  // Whether the outputs of several positions are rows of one matrix.
  const bool is_whole = n_rows == 1 || (c.hop == 1 && c.every == 1);
  for (int64_t turn = 0; turn < c.taps; ++turn) {
    // The tap in the middle is inside of src everywhere, so that it can start the sums.
    const int64_t tap = turn == 0 ? c.before : turn <= c.before ? turn - 1 : turn;
    const int64_t offset = tap - c.before, last = c.src.positions - 1 - offset;
    const int64_t first = offset < 0 ? (-offset + c.hop - 1) / c.hop : 0;
    const int64_t inside = last < 0 ? 0 : last / c.hop + 1;
    const int64_t stop = inside < c.length ? inside : c.length;
    Product p = {};
    p.n_in = c.n_in;
    p.ld_in = c.src.ld * (n_rows == 1 ? c.hop : 1);
    p.ld_out = c.dst.ld * (n_rows == 1 ? c.every : 1);
    p.words_of_piece = c.words_of_piece;
    p.ld_words = c.words_of_row * (n_rows == 1 ? c.hop : 1);
    p.weights_of_piece = c.taps * c.n_panels * kPanel * c.n_in / 2;
    p.vector = turn == 0 ? c.vector : nullptr;
    p.accumulates = turn > 0 || c.accumulates;
    const int64_t at = tap * c.n_panels * kPanel * c.n_in;
    if constexpr (kPieces > 0)
      p.weights = static_cast<const uint16_t*>(c.weights) + at;
    else
      p.weights = static_cast<const float*>(c.weights) + at;
    for (int64_t q = first; q < stop; q += is_whole ? stop - first : 1) {
      const int64_t seen = q * c.hop + offset;
      p.inputs = c.src.at(seen);
      p.words = kPieces > 0 ? c.words + seen * n_rows * c.words_of_row : nullptr;
      p.out = c.dst.at(q * c.every + c.place);
      multiply_panels<kPieces>(p, n_rows * (is_whole ? stop - first : 1), c.n_panels, begin, end);
    }
  }
}

template <int kPieces>
void convolution_job(void* data, int64_t begin, int64_t end) {
  const MatrixUnit unit(kPieces > 0, kTileRows, kPieces);  // of the thread that works on it
  convolve_panels<kPieces>(*static_cast<const Convolution*>(data), begin, end);
}

template <int kPieces>
void run_convolution(Convolution& c, Parallel parallel) {
  const int64_t work = c.src.n_rows * c.length * c.taps * c.n_in * kPanel;
  const int64_t grain = kWorkOfThread / work + 4;
  parallel(c.n_panels, grain, convolution_job<kPieces>, &c);
}

struct GroupNorm {
  Grid src, dst, added;
  const float* film;  // factors, and behind them what is added; or null
  int64_t ld_film;
  const float* vectors;  // gains and offsets
  int64_t length, n_groups, n_channels, activation;
  float eps;
};

// Adds n floats, or the squares of their distances from `mean`, to 16 interleaved sums.
template <bool kSquares>
inline void add_to(float* lanes, const float* row, int64_t n, float mean) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
#pragma omp simd
    for (int j = 0; j < 16; ++j) {
      const float d = row[i + j] - mean;
      lanes[j] += kSquares ? d * d : d;
    }
  for (int64_t j = 0; i + j < n; ++j) {
    const float d = row[i + j] - mean;
    lanes[j] += kSquares ? d * d : d;
  }
}

inline float total_of(float* lanes) {
  for (int step = 8; step > 0; step /= 2)
    for (int j = 0; j < step; ++j) lanes[j] += lanes[j + step];
  return lanes[0];
}

// One group at one position. What there is not has no loads: a masked load from a null pointer is
// right, and ten times as slow as the rest.
template <int64_t kKind, bool kFilm, bool kAdded>
inline void finish_group(const float* from, float* to, int64_t n, float mean, float scale,
                         const float* gain, const float* offset, const float* factor,
                         const float* shift, const float* added) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) {
    float value = activated<kKind>((from[k] - mean) * scale * gain[k] + offset[k]);
    if constexpr (kFilm) value = value * factor[k] + shift[k];
    if constexpr (kAdded) value += added[k];
    to[k] = value;
  }
}

template <int64_t kKind, bool kFilm, bool kAdded>
void normalize_row(const GroupNorm& g, int64_t r) {
  const int64_t wide = padded(g.n_channels), n = g.n_channels / g.n_groups, ld = g.src.ld;
  const float count = static_cast<float>(n * g.length);
  for (int64_t c = 0; c < g.n_channels; c += n) {
    const int64_t at = r * ld + c;
    float sums[16] = {}, squares[16] = {};
    for (int64_t q = 0; q < g.length; ++q) add_to<false>(sums, g.src.at(q) + at, n, 0.0f);
    const float mean = total_of(sums) / count;
    for (int64_t q = 0; q < g.length; ++q) add_to<true>(squares, g.src.at(q) + at, n, mean);
    const float scale = 1.0f / std::sqrt(total_of(squares) / count + g.eps);
    const float* gain = g.vectors + c;
    const float* factor = kFilm ? g.film + r * g.ld_film + c : nullptr;
    const float* shift = kFilm ? factor + wide : nullptr;
    for (int64_t q = 0; q < g.length; ++q)
      finish_group<kKind, kFilm, kAdded>(g.src.at(q) + at, g.dst.at(q) + at, n, mean, scale, gain,
                                         gain + wide, factor, shift,
                                         kAdded ? g.added.at(q) + at : nullptr);
  }
  for (int64_t q = 0; q < g.length; ++q)
    for (int64_t k = g.n_channels; k < wide; ++k) g.dst.at(q)[r * ld + k] = 0.0f;
}

template <int64_t kKind>
inline void normalize_row_of(const GroupNorm& g, int64_t r) {
  if (g.film && g.added.floats)
    normalize_row<kKind, true, true>(g, r);
  else if (g.film)
    normalize_row<kKind, true, false>(g, r);
  else if (g.added.floats)
    normalize_row<kKind, false, true>(g, r);
  else
    normalize_row<kKind, false, false>(g, r);
}

inline void group_norm_job(void* data, int64_t begin, int64_t end) {
  const GroupNorm& g = *static_cast<const GroupNorm*>(data);
  for (int64_t r = begin; r < end; ++r) switch (g.activation) {
      case kMish: normalize_row_of<kMish>(g, r); break;
      case kSilu: normalize_row_of<kSilu>(g, r); break;
      case kRelu: normalize_row_of<kRelu>(g, r); break;
      case kGelu: normalize_row_of<kGelu>(g, r); break;
      default: normalize_row_of<kNone>(g, r);
    }
}

inline void run_group_norm(GroupNorm& g, Parallel parallel) {
  const int64_t work = 20 * g.length * g.n_channels;  // operations per element
  parallel(g.src.n_rows, kWorkOfThread / work + 1, group_norm_job, &g);
}

}  // namespace GP_ISA
}  // namespace genpolicy
