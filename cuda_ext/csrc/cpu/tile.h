// Running a program for a tile of rows on one thread, for one instruction set; see program.h.
#pragma once

#include <cmath>

#include "convolution.h"
#include "noise.h"

namespace genpolicy {
namespace GP_ISA {

// The sum of n floats (n a multiple of 16) in 16 interleaved sums.
inline float sum_of(const float* row, int64_t n) {
  float lanes[16] = {};
  for (int64_t i = 0; i < n; i += 16)
#pragma omp simd
    for (int j = 0; j < 16; ++j) lanes[j] += row[i + j];
  for (int step = 8; step > 0; step /= 2)
    for (int j = 0; j < step; ++j) lanes[j] += lanes[j + step];
  return lanes[0];
}

inline void normalize_layer(const float* src, float* dst, int64_t n, const float* vectors,
                            double eps) {
  const int64_t wide = padded(n);
  const float mean = sum_of(src, wide) / static_cast<float>(n);
  float lanes[16] = {};
  for (int64_t i = 0; i < wide; i += 16)
#pragma omp simd
    for (int j = 0; j < 16; ++j) {
      const float d = i + j < n ? src[i + j] - mean : 0.0f;
      lanes[j] += d * d;
    }
  const float variance = sum_of(lanes, 16) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(variance + static_cast<float>(eps));
  // Gain and offset are zero in the padding, so that it stays zero.
#pragma omp simd
  for (int64_t i = 0; i < wide; ++i)
    dst[i] = (src[i] - mean) * scale * vectors[i] + vectors[wide + i];
}

// Works on n_rows rows of a batch from their inputs and seeds to their actions.
struct Tile {
  const Program& program;
  int64_t n_rows;
  float* floats;    // registers, one after the other, each (n_rows, padded width)
  uint32_t* words;  // inputs of a product in bfloat16
  uint32_t* next;   // those of the product that follows
  Parallel parallel;
  const float* ready = nullptr;  // the register whose words are there already

  float* at(int64_t reg) const { return floats + program.offset(reg) * n_rows; }
  int64_t ld(int64_t reg) const { return padded(program.width(reg)); }

  // `follows` is the instruction after this one, or null.
  void linear(const int64_t* i, const int64_t* follows, int64_t e) {
    const int64_t src = i[kFieldSrc], dst = i[kFieldDst], extra = i[kFieldSrc2], n = i[kFieldOut];
    Product p = {};
    p.inputs = at(src);
    p.ld_in = ld(src);
    p.n_in = i[kFieldIn];
    p.vector = program.vectors + i[kFieldVector] + e * i[kFieldStride];
    p.extra = extra < 0 ? nullptr : at(extra);
    p.ld_extra = extra < 0 ? 0 : ld(extra);
    p.out = at(dst);
    p.ld_out = ld(dst);
    p.accumulates = i[kFieldAccumulate] != 0;
    p.activation = i[kFieldActivation];
    p.is_half = n <= kPanel / 2;
    if (!program.is_bf16()) {
      p.weights = static_cast<const float*>(program.weights) + i[kFieldWeights];
      multiply<0>(p, n_rows, n);
      return;
    }
    p.weights = static_cast<const uint16_t*>(program.weights) + i[kFieldWeights];
    p.words_of_piece = words_of(p.n_in);
    p.ld_words = program.pieces() * p.words_of_piece;
    p.weights_of_piece = (p.n_in + 1) / 2 * padded(n);
    p.words = words;
#if defined(GP_MATRIX_UNIT)
    if (program.pieces() > 1) {
      linear_in_pieces<kMostPieces>(p, n);
      return;
    }
    // Three pieces would be written to so many lines at once that it takes longer than to read rows again.
    if (follows && follows[kFieldOp] == kOpLinear && follows[kFieldSrc] == dst && follows[kFieldIn] == n) {
      p.next = next;
      p.ld_next = words_of(n);
    }
#endif
    linear_in_pieces<1>(p, n);
  }

  template <int kPieces>
  void linear_in_pieces(const Product& p, int64_t n) {
    const bool is_ready = p.inputs == ready;
    ready = nullptr;
    if (!is_ready)
      for (int64_t r = 0; r < n_rows; ++r)  // the padding of a row is zero
        to_words<kPieces>(p.inputs + r * p.ld_in, words + r * p.ld_words, p.n_in, p.words_of_piece);
    multiply<kPieces>(p, n_rows, n);
    if (!p.next) return;
    for (int64_t r = 0; r < n_rows; ++r)
      pad_words<kPieces>(p.next + r * p.ld_next, n, p.ld_next);
    next = words;
    words = p.next;
    ready = p.out;
  }

  void elementwise(const int64_t* i, int64_t e, const double* factors, const float* state) const {
    const int64_t n = padded(i[kFieldOut]), extra = i[kFieldExtra];
    const float* vector = program.vectors + i[kFieldVector] + e * i[kFieldStride];
    const int64_t chunk = padded(program.head(kHeadChunk));
    for (int64_t r = 0; r < n_rows; ++r) {
      float* dst = i[kFieldDst] < 0 ? nullptr : at(i[kFieldDst]) + r * ld(i[kFieldDst]);
      float* src = i[kFieldSrc] < 0 ? nullptr : at(i[kFieldSrc]) + r * ld(i[kFieldSrc]);
      switch (i[kFieldOp]) {
        case kOpNorm:
          normalize_layer(src, dst, i[kFieldOut], vector, bits_of<double>(extra));
          break;
        case kOpModulate: {
          const float* film = at(i[kFieldSrc2]) + r * ld(i[kFieldSrc2]) + extra;
#pragma omp simd
          for (int64_t k = 0; k < n; ++k) dst[k] = src[k] * (1.0f + film[k]) + film[n + k];
          break;
        }
        case kOpActivate:
#pragma omp simd
          for (int64_t k = 0; k < n; ++k) dst[k] = src[k] + vector[k];
          break;
        case kOpNormalize:
#pragma omp simd
          for (int64_t k = 0; k < n; ++k) dst[k] = vector[n + k] == 0.0f ? 0.0f : (src[k] - vector[k]) * vector[n + k];
          break;
        case kOpPresent: {
          bool is_there = true;
          float* part = src + i[kFieldIn];
          for (int64_t k = 0; k < i[kFieldOut]; ++k) is_there = is_there && part[k] == part[k];
          for (int64_t k = 0; k < i[kFieldOut]; ++k) part[k] = is_there ? part[k] : 0.0f;
          src[extra] = is_there ? 1.0f : 0.0f;
          break;
        }
        case kOpWaves: {
          const double half_turns = static_cast<double>(int64_t{1} << extra) * 0.5;
          for (int64_t k = 0; k < n; ++k) {
            const double turns = src[k] * half_turns;
            const Pair wave = cos_sin_turns(turns - std::floor(turns));
            const bool inside = k < i[kFieldOut];
            dst[k] = inside ? static_cast<float>(wave.sine) : 0.0f;
            dst[n + k] = inside ? static_cast<float>(wave.cosine) : 0.0f;
          }
          break;
        }
        case kOpInput: {
          const float scale = static_cast<float>(factors[kPlanMembers + 2 * extra]);
          const float* x = state + r * chunk;
#pragma omp simd
          for (int64_t k = 0; k < chunk; ++k) dst[k] = scale * x[k];
          break;
        }
        case kOpCombine: {
          const float scale = static_cast<float>(factors[kPlanMembers + 2 * extra + 1]);
          float* denoised = at(kRegDenoised) + r * chunk;
#pragma omp simd
          for (int64_t k = 0; k < chunk; ++k) denoised[k] += scale * src[k];
          break;
        }
      }
    }
    if (i[kFieldOp] == kOpActivate)
      activate(i[kFieldActivation], at(i[kFieldDst]), ld(i[kFieldDst]), n_rows, n);
  }

  // The register of a field as a grid of n channels; without memory where the field names none.
  Grid grid(const int64_t* i, int64_t field, int64_t n) const {
    if (i[field] < 0) return Grid{nullptr, 0, n_rows, strided(n)};
    return Grid{at(i[field]), program.positions(i[field], n), n_rows, strided(n)};
  }

  void convolve(const int64_t* i) const {
    Convolution c;
    c.src = grid(i, kFieldSrc, i[kFieldIn]);
    c.dst = grid(i, kFieldDst, i[kFieldOut]);
    c.n_in = padded(i[kFieldIn]);
    c.n_panels = padded(i[kFieldOut]) / kPanel;
    c.vector = program.vectors + i[kFieldVector];
    c.length = i[kFieldLength];
    c.taps = i[kFieldTaps];
    c.hop = i[kFieldHop];
    c.before = i[kFieldBefore];
    c.every = i[kFieldEvery];
    c.place = i[kFieldPlace];
    c.accumulates = i[kFieldAccumulate] != 0;
    if (!program.is_bf16()) {
      c.weights = static_cast<const float*>(program.weights) + i[kFieldWeights];
      run_convolution<0>(c, parallel);
      return;
    }
    c.weights = static_cast<const uint16_t*>(program.weights) + i[kFieldWeights];
    c.words = words;
#if defined(GP_MATRIX_UNIT)
    if (program.pieces() > 1) {
      convolve_in_pieces<kMostPieces>(c);
      return;
    }
#endif
    convolve_in_pieces<1>(c);
  }

  template <int kPieces>
  void convolve_in_pieces(Convolution& c) const {
    c.words_of_piece = c.src.ld / 2 * kWordsOfPair;
    c.words_of_row = kPieces * c.words_of_piece;
    for (int64_t r = 0; r < c.src.positions * n_rows; ++r)
      to_words<kPieces>(c.src.floats + r * c.src.ld, words + r * c.words_of_row, c.n_in,
                        c.words_of_piece);
    run_convolution<kPieces>(c, parallel);
  }

  void normalize_groups(const int64_t* i) const {
    const int64_t n = i[kFieldOut], film = i[kFieldSrc3];
    GroupNorm g;
    g.src = grid(i, kFieldSrc, n);
    g.dst = grid(i, kFieldDst, n);
    g.added = grid(i, kFieldSrc2, n);
    g.film = film < 0 ? nullptr : at(film) + i[kFieldPlace];
    g.ld_film = film < 0 ? 0 : ld(film);
    g.vectors = program.vectors + i[kFieldVector];
    g.length = i[kFieldLength];
    g.n_groups = i[kFieldIn];
    g.n_channels = n;
    g.eps = static_cast<float>(bits_of<double>(i[kFieldExtra]));
    g.activation = i[kFieldActivation];
    run_group_norm(g, parallel);
  }

  // Between a row of `length` times `out` floats and a grid.
  void copy_grid(const int64_t* i) const {
    const bool spreads = i[kFieldOp] == kOpSpread;
    const int64_t n = i[kFieldOut], of_row = i[spreads ? kFieldSrc : kFieldDst];
    const Grid to = grid(i, spreads ? kFieldDst : kFieldSrc, n);
    for (int64_t q = 0; q < i[kFieldLength]; ++q)
      for (int64_t r = 0; r < n_rows; ++r) {
        float* flat = at(of_row) + r * ld(of_row) + q * n;
        if (spreads)
          memcpy(to.at(q) + r * to.ld, flat, sizeof(float) * n);
        else
          memcpy(flat, to.at(q) + r * to.ld, sizeof(float) * n);
      }
  }

  void run(const int64_t* i, const int64_t* follows, int64_t e, const double* factors,
           const float* state) {
    if (i[kFieldOp] == kOpLinear)
      linear(i, follows, e);
    else if (i[kFieldOp] == kOpConvolve)
      convolve(i);
    else if (i[kFieldOp] == kOpGroupNorm)
      normalize_groups(i);
    else if (i[kFieldOp] == kOpSpread || i[kFieldOp] == kOpGather)
      copy_grid(i);
    else
      elementwise(i, e, factors, state);
  }

  void run_all(int64_t begin, int64_t end, int64_t e, const double* factors, const float* state) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t* follows = i + 1 < end ? program.instruction(i + 1) : nullptr;
      run(program.instruction(i), follows, e, factors, state);
    }
  }

  // The networks, one way and the other in turn: weights of the last one are still in the caches. The
  // instructions of each start with its input.
  void run_members(int64_t e, const double* factors, const float* seen) {
    int64_t begin = program.head(kHeadPrologue), end = begin + program.head(kHeadBody);
    auto is_start = [&](int64_t i) { return program.instruction(i)[kFieldOp] == kOpInput; };
    while (begin < end) {
      if (e % 2 == 0) {
        int64_t next_one = begin + 1;
        while (next_one < end && !is_start(next_one)) ++next_one;
        run_all(begin, next_one, e, factors, seen);
        begin = next_one;
      } else {
        int64_t last_one = end - 1;
        while (last_one > begin && !is_start(last_one)) --last_one;
        run_all(last_one, end, e, factors, seen);
        end = last_one;
      }
    }
  }

  void evaluate(int64_t e, Draws& draws) {
    const double* factors = program.evaluation(e);
    const int64_t chunk = program.head(kHeadChunk), n = padded(chunk), size = n_rows * n;
    float* state = at(kRegState);
    const float* seen = factors[kPlanFromStage] != 0.0 ? at(kRegStage) : state;
    float* denoised = at(kRegDenoised);
    const float on_x = static_cast<float>(factors[kPlanOnX]);
#pragma omp simd
    for (int64_t k = 0; k < size; ++k) denoised[k] = on_x * seen[k];
    const int64_t shift = program.head(kHeadShift);
    if (shift >= 0)
      for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t k = 0; k < chunk; ++k)
          denoised[r * n + k] += program.vectors[shift + e * chunk + k];
    run_members(e, factors, seen);
    const float lo = static_cast<float>(program.plan[kPlanLow]);
    const float hi = static_cast<float>(program.plan[kPlanHigh]);
    float* before = at(kRegBefore);
    const bool is_noisy = factors[kPlanNoise] != 0.0;
    const float* noise =
        is_noisy ? draws.at(static_cast<uint32_t>(factors[kPlanNoiseIndex])) : at(kRegNoise);
    float* to = factors[kPlanToStage] != 0.0 ? at(kRegStage) : state;
    const float c_x = static_cast<float>(factors[kPlanX]);
    const float c_denoised = static_cast<float>(factors[kPlanDenoised]);
    const float c_previous = static_cast<float>(factors[kPlanPrevious]);
    const float c_noise = static_cast<float>(factors[kPlanNoise]);
#pragma omp simd
    for (int64_t k = 0; k < size; ++k) {
      const float clean = limited(denoised[k], lo, hi);
      float next = c_x * state[k] + c_denoised * clean;
      // A factor of 0 leaves out what is not there yet, and may hold anything.
      next += c_previous != 0.0f ? c_previous * before[k] : 0.0f;
      next += is_noisy ? c_noise * noise[k] : 0.0f;
      to[k] = next;
      before[k] = clean;
    }
  }

  void sample(const float* inputs, const int64_t* seeds, float* out) {
    const int64_t chunk = program.head(kHeadChunk), n = padded(chunk);
    const int64_t n_inputs = program.head(kHeadInputs);
    for (int64_t k = 0; k < n_rows * program.head(kHeadRowFloats); ++k) floats[k] = 0.0f;
    float* features = at(kRegInputs);
    for (int64_t r = 0; r < n_rows; ++r)
      memcpy(features + r * ld(kRegInputs), inputs + r * n_inputs, sizeof(float) * n_inputs);
    run_all(0, program.head(kHeadPrologue), 0, nullptr, nullptr);
    float* state = at(kRegState);
    Draws draws(seeds, n_rows, chunk, at(kRegNoise), n);
    const float* first = draws.at(0);
    const float start = static_cast<float>(program.plan[kPlanInit]);
    for (int64_t k = 0; k < n_rows * n; ++k) state[k] = start * first[k];
    for (int64_t e = 0; e < program.head(kHeadEvaluations); ++e) evaluate(e, draws);
    const float lo = static_cast<float>(program.plan[kPlanLowEnd]);
    const float hi = static_cast<float>(program.plan[kPlanHighEnd]);
    const float* center = program.vectors + program.head(kHeadCenter);
    const float* span = program.vectors + program.head(kHeadSpan);
    for (int64_t r = 0; r < n_rows; ++r)
#pragma omp simd
      for (int64_t k = 0; k < chunk; ++k)
        out[r * chunk + k] = center[k] + limited(state[r * n + k], lo, hi) * span[k];
  }
};

void sample_rows(const Program& program, const float* inputs, const int64_t* seeds, float* out,
                 int64_t n_rows, float* floats, uint32_t* words, Parallel parallel) {
  const int64_t most = program.has_convolutions() ? kTileRows : n_rows;
  const MatrixUnit unit(program.is_bf16(), most, program.pieces());
  const int64_t n_words = (n_rows + kGroupBf16) * program.head(kHeadRowFloats) * program.pieces();
  uint32_t* next = words ? words + n_words : nullptr;
  Tile{program, n_rows, floats, words, next, parallel}.sample(inputs, seeds, out);
}

}  // namespace GP_ISA
}  // namespace genpolicy
