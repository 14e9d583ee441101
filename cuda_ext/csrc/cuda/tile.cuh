// Running a program for a tile of rows on one thread block; see program.h, and cpu/tile.h for the same
// on a processor.
#pragma once

#include <math.h>  // ::floor, of the host or of the device

#include "products.cuh"

namespace genpolicy {
namespace cuda {

// What a kernel works on; in the bank of constants, so that none of it occupies registers.
struct Arguments {
  Program program;
  const float* inputs;
  const int64_t* seeds;
  float* out;
  int64_t n_rows;
  float* registers;  // tiles of all blocks, where they are not in shared memory
};

// Floats from row to row of a tile: 8 modulo 32, so that rows beside each other start in different
// banks. All registers of a row lie together, where program.h puts them.
GP_HD int64_t ld_of(int64_t row_floats) { return row_floats + (row_floats % 32 == 0 ? 8 : 24); }

template <int64_t kKind>
__device__ __forceinline__ void activate_row(const float* src, float* dst, int n, const float* vector) {
#pragma unroll 2
  for (int k = threadIdx.x % kLanesOfRow; k < n; k += kLanesOfRow)
    dst[k] = activated<kKind>(vector ? src[k] + vector[k] : src[k]);
}

// Standard normals of one draw for the tile's first n_rows rows: see genpolicy/ops/noise.py.
__device__ __forceinline__ void fill_noise(const int64_t* seeds, int n_rows, int n, uint32_t index,
                                           float* out, int ld) {
  const int n_blocks = (n + 3) / 4;
#pragma unroll 1
  for (int job = threadIdx.x; job < n_rows * n_blocks; job += kThreads) {
    const int row = job / n_blocks, block = job % n_blocks;
    const auto seed = static_cast<uint64_t>(seeds[row]);
    const Words words = philox(static_cast<uint32_t>(block), index, 0u, 0u,
                               static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    float normals[4];
    two_normals(words.w[0], words.w[1], &normals[0], &normals[1]);
    two_normals(words.w[2], words.w[3], &normals[2], &normals[3]);
    float* to = out + row * ld + 4 * block;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (4 * block + j < n) to[j] = normals[j];
  }
}

// What a block does to the kRows rows of a tile. Every member function ends with all threads together,
// but for those on single rows, which 16 lanes share.
template <int kRows, bool kBf16>
struct Tile {
  const Arguments& arguments;
  const Program& program;
  float* const floats;     // kRows rows of registers
  uint32_t* const stream;  // of weights
  const int ld;

  __device__ __forceinline__ float* at(int64_t reg) const { return floats + program.offset(reg); }

  // Calls use(row, first) for the rows of these 16 lanes; `first` is the row's place in registers.
  template <class Use>
  __device__ __forceinline__ void on_rows(Use use) const {
#pragma unroll 1
    for (int row = threadIdx.x / kLanesOfRow; row < kRows; row += kThreads / kLanesOfRow)
      use(row, row * ld);
    __syncthreads();
  }

  // Calls use(i) for the places of n floats of all rows, n a multiple of 16.
  template <class Use>
  __device__ __forceinline__ void on_floats(int n, Use use) const {
    on_rows([&](int, int first) {
#pragma unroll 1
      for (int k = threadIdx.x % kLanesOfRow; k < n; k += kLanesOfRow) use(first + k, k);
    });
  }

  __device__ __forceinline__ void activate(int64_t kind, const float* src, float* dst, int n,
                                           const float* vector) const {
    on_rows([&](int, int first) {
      switch (kind) {
        case kMish: activate_row<kMish>(src + first, dst + first, n, vector); break;
        case kSilu: activate_row<kSilu>(src + first, dst + first, n, vector); break;
        case kRelu: activate_row<kRelu>(src + first, dst + first, n, vector); break;
        case kGelu: activate_row<kGelu>(src + first, dst + first, n, vector); break;
        default: activate_row<kNone>(src + first, dst + first, n, vector);
      }
    });
  }

  __device__ __forceinline__ void linear(const int64_t* i, const float* vector) const {
    const int n_out = static_cast<int>(i[kFieldOut]);
    Product p;
    p.inputs = at(i[kFieldSrc]);
    p.n_in = static_cast<int>(i[kFieldIn]);
    p.depth = kBf16 ? (p.n_in + 1) / 2 : p.n_in;
    // Places in weights count its numbers: two of bfloat16 are a word.
    p.weights = static_cast<const uint32_t*>(program.weights) + i[kFieldWeights] / (kBf16 ? 2 : 1);
    p.vector = vector;
    p.extra = i[kFieldSrc2] < 0 ? nullptr : at(i[kFieldSrc2]);
    p.out = at(i[kFieldDst]);
    p.accumulates = i[kFieldAccumulate] != 0;
    p.ld = ld;
    p.stream = stream;
    multiply<kRows, kBf16>(p, n_out);
    if (i[kFieldActivation] != kNone)
      activate(i[kFieldActivation], p.out, p.out, static_cast<int>(padded(n_out)), nullptr);
  }

  __device__ __forceinline__ void norm(const float* src, float* dst, int n, const float* vector,
                                       double eps) const {
    const int wide = static_cast<int>(padded(n)), lane = threadIdx.x % kLanesOfRow;
    // With 8 rows half of the warps have none; those that have one are whole, as sums need them.
    on_rows([&](int, int first) {
      float total = 0.0f, squares = 0.0f;
#pragma unroll 1
      for (int k = lane; k < wide; k += kLanesOfRow) total += src[first + k];
      const float mean = sum_of_16(total) / static_cast<float>(n);
#pragma unroll 1
      for (int k = lane; k < n; k += kLanesOfRow) {
        const float d = src[first + k] - mean;
        squares = squares + d * d;
      }
      const float variance = sum_of_16(squares) / static_cast<float>(n);
      const float scale = 1.0f / root(variance + static_cast<float>(eps));
      // Gain and offset are zero in the padding, so that it stays zero.
#pragma unroll 1
      for (int k = lane; k < wide; k += kLanesOfRow)
        dst[first + k] = (src[first + k] - mean) * scale * vector[k] + vector[wide + k];
    });
  }

  __device__ __forceinline__ void present(const int64_t* i) const {
    float* src = at(i[kFieldSrc]);
    const int n = static_cast<int>(i[kFieldOut]);
    for (int row = threadIdx.x; row < kRows; row += kThreads) {
      float* part = src + row * ld + i[kFieldIn];
      bool is_there = true;
#pragma unroll 1
      for (int k = 0; k < n; ++k) is_there = is_there && part[k] == part[k];
#pragma unroll 1
      for (int k = 0; k < n; ++k) part[k] = is_there ? part[k] : 0.0f;
      src[row * ld + i[kFieldExtra]] = is_there ? 1.0f : 0.0f;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void waves(const float* src, float* dst, int n, int64_t octave) const {
    const int wide = static_cast<int>(padded(n));
    const double half_turns = static_cast<double>(int64_t{1} << octave) * 0.5;
    on_floats(wide, [&](int place, int k) {
      const double turns = static_cast<double>(src[place]) * half_turns;
      const Pair wave = cos_sin_turns(turns - floor(turns));
      dst[place] = k < n ? static_cast<float>(wave.sine) : 0.0f;
      dst[place + wide] = k < n ? static_cast<float>(wave.cosine) : 0.0f;
    });
  }

  __device__ __forceinline__ void run(const int64_t* i, int e, const double* factors,
                                      const float* state) const {
    const float* vector = program.vectors + i[kFieldVector] + e * i[kFieldStride];
    const float* src = i[kFieldSrc] < 0 ? nullptr : at(i[kFieldSrc]);
    float* dst = i[kFieldDst] < 0 ? nullptr : at(i[kFieldDst]);
    const int n = static_cast<int>(padded(i[kFieldOut]));
    const int64_t extra = i[kFieldExtra];
    switch (i[kFieldOp]) {
      case kOpLinear:
        linear(i, vector);
        break;
      case kOpNorm:
        norm(src, dst, static_cast<int>(i[kFieldOut]), vector, bits_of<double>(extra));
        break;
      case kOpModulate: {
        const float* film = at(i[kFieldSrc2]) + extra;
        on_floats(n, [&](int place, int) {
          dst[place] = src[place] * (1.0f + film[place]) + film[place + n];
        });
        break;
      }
      case kOpActivate:
        activate(i[kFieldActivation], src, dst, n, vector);
        break;
      case kOpNormalize:
        on_floats(n, [&](int place, int k) {
          dst[place] = vector[n + k] == 0.0f ? 0.0f : (src[place] - vector[k]) * vector[n + k];
        });
        break;
      case kOpPresent:
        present(i);
        break;
      case kOpWaves:
        waves(src, dst, static_cast<int>(i[kFieldOut]), extra);
        break;
      case kOpInput: {
        const auto scale = static_cast<float>(factors[kPlanMembers + 2 * extra]);
        on_floats(n, [&](int place, int) { dst[place] = scale * state[place]; });
        break;
      }
      case kOpCombine: {
        const auto scale = static_cast<float>(factors[kPlanMembers + 2 * extra + 1]);
        float* denoised = at(kRegDenoised);
        on_floats(n, [&](int place, int) { denoised[place] += scale * src[place]; });
        break;
      }
    }
  }

  // D of the parts that are no network's.
  __device__ __forceinline__ void begin_evaluation(int e, const double* factors, const float* seen) const {
    const int chunk = static_cast<int>(program.head(kHeadChunk));
    float* const denoised = at(kRegDenoised);
    const auto on_x = static_cast<float>(factors[kPlanOnX]);
    const int64_t shift = program.head(kHeadShift);
    const float* shifts = shift < 0 ? nullptr : program.vectors + shift + int64_t{e} * chunk;
    on_floats(static_cast<int>(padded(chunk)), [&](int place, int k) {
      const float value = on_x * seen[place];
      denoised[place] = shifts && k < chunk ? value + shifts[k] : value;
    });
  }

  // The step to the next state, or to the one inside the step.
  __device__ __forceinline__ void step(const double* factors) const {
    const auto lo = static_cast<float>(program.plan[kPlanLow]);
    const auto hi = static_cast<float>(program.plan[kPlanHigh]);
    const auto c_x = static_cast<float>(factors[kPlanX]);
    const auto c_denoised = static_cast<float>(factors[kPlanDenoised]);
    const auto c_previous = static_cast<float>(factors[kPlanPrevious]);
    const auto c_noise = static_cast<float>(factors[kPlanNoise]);
    const bool is_noisy = factors[kPlanNoise] != 0.0;
    const float* const denoised = at(kRegDenoised);
    const float* const noise = at(kRegNoise);
    const float* const state = at(kRegState);
    float* const to = at(factors[kPlanToStage] != 0.0 ? kRegStage : kRegState);
    float* const before = at(kRegBefore);
    on_floats(static_cast<int>(padded(program.head(kHeadChunk))), [&](int place, int) {
      const float clean = limited(denoised[place], lo, hi);
      float next = c_x * state[place] + c_denoised * clean;
      // A factor of 0 leaves out what is not there yet, and may hold anything.
      next += c_previous != 0.0f ? c_previous * before[place] : 0.0f;
      next += is_noisy ? c_noise * noise[place] : 0.0f;
      to[place] = next;
      before[place] = clean;
    });
  }

  __device__ __forceinline__ void start(int64_t begin, int n_rows) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * ld; i += kThreads) floats[i] = 0.0f;
    __syncthreads();
    const int n_inputs = static_cast<int>(program.head(kHeadInputs));
    const float* const inputs = arguments.inputs + begin * n_inputs;
    float* const features = at(kRegInputs);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * n_inputs; i += kThreads)
      features[i / n_inputs * ld + i % n_inputs] = inputs[i];
    __syncthreads();
  }

  __device__ __forceinline__ void finish(int64_t begin, int n_rows) const {
    const int chunk = static_cast<int>(program.head(kHeadChunk));
    const auto lo = static_cast<float>(program.plan[kPlanLowEnd]);
    const auto hi = static_cast<float>(program.plan[kPlanHighEnd]);
    const float* const center = program.vectors + program.head(kHeadCenter);
    const float* const span = program.vectors + program.head(kHeadSpan);
    const float* const state = at(kRegState);
    float* const out = arguments.out + begin * chunk;
#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * chunk; i += kThreads) {
      const int row = i / chunk, k = i % chunk;
      out[i] = center[k] + limited(state[row * ld + k], lo, hi) * span[k];
    }
    __syncthreads();  // before the next tile clears the registers
  }

  // The state at the start.
  __device__ __forceinline__ void draw() const {
    const float* const noise = at(kRegNoise);
    float* const state = at(kRegState);
    const auto scale = static_cast<float>(program.plan[kPlanInit]);
    on_floats(static_cast<int>(padded(program.head(kHeadChunk))),
              [&](int place, int) { state[place] = noise[place] * scale; });
  }

  // Works on n_rows rows from row `begin` of the batch on, at most kRows, from their inputs and seeds to
  // their actions. The tile's other rows are computed from zeros and written nowhere.
  __device__ __forceinline__ void sample(int64_t begin, int n_rows) const {
    start(begin, n_rows);
    // The prologue counts as evaluation -1: instructions and noise are in the kernel only once.
#pragma unroll 1
    for (int e = -1; e < static_cast<int>(program.head(kHeadEvaluations)); ++e) {
      const bool is_prologue = e < 0;
      const double* factors = is_prologue ? nullptr : program.evaluation(e);
      const float* seen = nullptr;
      if (!is_prologue) {
        seen = at(factors[kPlanFromStage] != 0.0 ? kRegStage : kRegState);
        begin_evaluation(e, factors, seen);
      }
      const int n_prologue = static_cast<int>(program.head(kHeadPrologue));
      const int end = is_prologue ? n_prologue : n_prologue + static_cast<int>(program.head(kHeadBody));
#pragma unroll 1
      for (int i = is_prologue ? 0 : n_prologue; i < end; ++i)
        run(program.instruction(i), is_prologue ? 0 : e, factors, seen);
      if (is_prologue || factors[kPlanNoise] != 0.0) {
        const uint32_t index = is_prologue ? 0u : static_cast<uint32_t>(factors[kPlanNoiseIndex]);
        fill_noise(arguments.seeds + begin, n_rows, static_cast<int>(program.head(kHeadChunk)), index,
                   at(kRegNoise), ld);
        __syncthreads();
      }
      if (is_prologue)
        draw();
      else
        step(factors);
    }
    finish(begin, n_rows);
  }
};

}  // namespace cuda
}  // namespace genpolicy
