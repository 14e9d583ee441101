// The instructions on rows, and the loop around them, for threads that work together on some rows; see
// program.h, and cpu/tile.h for the same on a processor.
//
// Who works together is a Team: the threads of a block (tile.cuh), or those of all blocks (grid.cuh).
//   on_rows(ld, use)       use(row, place) for rows that 16 lanes share, `place` the row's first float
//   on_floats(ld, n, use)  use(place, k) for n floats of all rows, n a multiple of 16
//   on_each(n, use)        use(i) for i < n
//   rows()                 rows that have registers
//   settle()               between what is written and what reads it. The others end with all threads
//                          together in a block, and with nothing of the kind in a grid.
#pragma once

#include <math.h>  // ::floor, of the host or of the device

#include "machine.cuh"

namespace genpolicy {
namespace cuda {

// What a kernel works on; in the bank of constants, so that none of it occupies registers.
struct Arguments {
  Program program;
  const float* inputs;
  const int64_t* seeds;
  float* out;
  int64_t n_rows;
  float* registers;  // of all blocks, where they are not in shared memory
};

template <class Team>
struct Machine {
  const Arguments& arguments;
  const Program& program;
  const Team team;
  float* const floats;  // registers of the rows, those of a row together
  const int ld;         // floats from row to row

  __device__ __forceinline__ float* at(int64_t reg) const { return floats + program.offset(reg); }

  // The first row of a tile in the batch, and how many rows of the batch it has.
  __device__ __forceinline__ int64_t first_of(int tile) const { return int64_t{tile} * team.rows(); }
  __device__ __forceinline__ int rows_of(int tile) const {
    const int64_t left = arguments.n_rows - first_of(tile);
    return left < team.rows() ? static_cast<int>(left) : team.rows();
  }

  template <int64_t kKind>
  __device__ __forceinline__ void activate_as(const float* src, float* dst, int n,
                                              const float* vector) const {
    team.on_floats(ld, n, [&](int place, int k) {
      dst[place] = activated<kKind>(vector ? src[place] + vector[k] : src[place]);
    });
  }

  __device__ __forceinline__ void activate(int64_t kind, const float* src, float* dst, int n,
                                           const float* vector) const {
    switch (kind) {
      case kMish: activate_as<kMish>(src, dst, n, vector); break;
      case kSilu: activate_as<kSilu>(src, dst, n, vector); break;
      case kRelu: activate_as<kRelu>(src, dst, n, vector); break;
      case kGelu: activate_as<kGelu>(src, dst, n, vector); break;
      default: activate_as<kNone>(src, dst, n, vector);
    }
  }

  __device__ __forceinline__ void norm(const float* src, float* dst, int n, const float* vector,
                                       double eps) const {
    const int wide = static_cast<int>(padded(n)), lane = threadIdx.x % kLanesOfRow;
    // With 8 rows half of the warps have none; those that have one are whole, as sums need them.
    team.on_rows(ld, [&](int, int first) {
      float total = 0.0f, squares = 0.0f;
#pragma unroll 1
      for (int k = lane; k < wide; k += kLanesOfRow) total += src[first + k];
      const float mean = sum_of<kLanesOfRow>(total) / static_cast<float>(n);
#pragma unroll 1
      for (int k = lane; k < n; k += kLanesOfRow) {
        const float d = src[first + k] - mean;
        squares = squares + d * d;
      }
      const float variance = sum_of<kLanesOfRow>(squares) / static_cast<float>(n);
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
    team.on_each(team.rows(), [&](int row) {
      float* part = src + row * ld + i[kFieldIn];
      bool is_there = true;
#pragma unroll 1
      for (int k = 0; k < n; ++k) is_there = is_there && part[k] == part[k];
#pragma unroll 1
      for (int k = 0; k < n; ++k) part[k] = is_there ? part[k] : 0.0f;
      src[row * ld + i[kFieldExtra]] = is_there ? 1.0f : 0.0f;
    });
  }

  __device__ __forceinline__ void waves(const float* src, float* dst, int n, int64_t octave) const {
    const int wide = static_cast<int>(padded(n));
    const double half_turns = static_cast<double>(int64_t{1} << octave) * 0.5;
    team.on_floats(ld, wide, [&](int place, int k) {
      const double turns = static_cast<double>(src[place]) * half_turns;
      const Pair wave = cos_sin_turns(turns - floor(turns));
      dst[place] = k < n ? static_cast<float>(wave.sine) : 0.0f;
      dst[place + wide] = k < n ? static_cast<float>(wave.cosine) : 0.0f;
    });
  }

  // All instructions but products and what belongs to grids.
  __device__ __forceinline__ void run(const int64_t* i, int e) const {
    const float* vector = program.vectors + i[kFieldVector] + e * i[kFieldStride];
    const float* src = i[kFieldSrc] < 0 ? nullptr : at(i[kFieldSrc]);
    float* dst = i[kFieldDst] < 0 ? nullptr : at(i[kFieldDst]);
    const int n = static_cast<int>(padded(i[kFieldOut]));
    const int64_t extra = i[kFieldExtra];
    switch (i[kFieldOp]) {
      case kOpNorm:
        norm(src, dst, static_cast<int>(i[kFieldOut]), vector, bits_of<double>(extra));
        break;
      case kOpModulate: {
        const float* film = at(i[kFieldSrc2]) + extra;
        team.on_floats(ld, n, [&](int place, int) {
          dst[place] = src[place] * (1.0f + film[place]) + film[place + n];
        });
        break;
      }
      case kOpActivate:
        activate(i[kFieldActivation], src, dst, n, vector);
        break;
      case kOpNormalize:
        team.on_floats(ld, n, [&](int place, int k) {
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
        const float* const state = seen(e);
        const auto scale = static_cast<float>(program.evaluation(e)[kPlanMembers + 2 * extra]);
        team.on_floats(ld, n, [&](int place, int) { dst[place] = scale * state[place]; });
        break;
      }
      case kOpCombine: {
        const auto scale = static_cast<float>(program.evaluation(e)[kPlanMembers + 2 * extra + 1]);
        float* denoised = at(kRegDenoised);
        team.on_floats(ld, n, [&](int place, int) { denoised[place] += scale * src[place]; });
        break;
      }
    }
  }

  // The state that an evaluation sees.
  __device__ __forceinline__ const float* seen(int e) const {
    return at(program.evaluation(e)[kPlanFromStage] != 0.0 ? kRegStage : kRegState);
  }

  // D of the parts that are no network's.
  __device__ __forceinline__ void begin_evaluation(int e) const {
    const float* const state = seen(e);
    const int chunk = static_cast<int>(program.head(kHeadChunk));
    float* const denoised = at(kRegDenoised);
    const auto on_x = static_cast<float>(program.evaluation(e)[kPlanOnX]);
    const int64_t shift = program.head(kHeadShift);
    const float* shifts = shift < 0 ? nullptr : program.vectors + shift + int64_t{e} * chunk;
    team.on_floats(ld, static_cast<int>(padded(chunk)), [&](int place, int k) {
      const float value = on_x * state[place];
      denoised[place] = shifts && k < chunk ? value + shifts[k] : value;
    });
  }

  // The step to the next state, or to the one inside the step.
  __device__ __forceinline__ void step(int e) const {
    const double* const factors = program.evaluation(e);
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
    team.on_floats(ld, static_cast<int>(padded(program.head(kHeadChunk))), [&](int place, int) {
      const float clean = limited(denoised[place], lo, hi);
      float next = c_x * state[place] + c_denoised * clean;
      // A factor of 0 leaves out what is not there yet, and may hold anything.
      next += c_previous != 0.0f ? c_previous * before[place] : 0.0f;
      next += is_noisy ? c_noise * noise[place] : 0.0f;
      to[place] = next;
      before[place] = clean;
    });
  }

  __device__ __forceinline__ void start(int tile) const {
    const int64_t begin = first_of(tile);
    const int n_rows = rows_of(tile);
    team.on_each(team.rows() * ld, [&](int i) { floats[i] = 0.0f; });
    team.settle();
    const int n_inputs = static_cast<int>(program.head(kHeadInputs));
    const float* const inputs = arguments.inputs + begin * n_inputs;
    float* const features = at(kRegInputs);
    team.on_each(n_rows * n_inputs,
                 [&](int i) { features[i / n_inputs * ld + i % n_inputs] = inputs[i]; });
    team.settle();
  }

  __device__ __forceinline__ void finish(int tile) const {
    const int64_t begin = first_of(tile);
    const int n_rows = rows_of(tile);
    const int chunk = static_cast<int>(program.head(kHeadChunk));
    const auto lo = static_cast<float>(program.plan[kPlanLowEnd]);
    const auto hi = static_cast<float>(program.plan[kPlanHighEnd]);
    const float* const center = program.vectors + program.head(kHeadCenter);
    const float* const span = program.vectors + program.head(kHeadSpan);
    const float* const state = at(kRegState);
    float* const out = arguments.out + begin * chunk;
    team.on_each(n_rows * chunk, [&](int i) {
      const int row = i / chunk, k = i % chunk;
      out[i] = center[k] + limited(state[row * ld + k], lo, hi) * span[k];
    });
    team.settle();  // before the next rows clear the registers
  }

  // Standard normals of one draw for the first n_rows rows: see genpolicy/ops/noise.py.
  __device__ __forceinline__ void fill_noise(int tile, uint32_t index) const {
    const int n_rows = rows_of(tile);
    const int n = static_cast<int>(program.head(kHeadChunk)), n_blocks = (n + 3) / 4;
    const int64_t* const seeds = arguments.seeds + first_of(tile);
    float* const noise = at(kRegNoise);
    team.on_each(n_rows * n_blocks, [&](int job) {
      const int row = job / n_blocks, block = job % n_blocks;
      const auto seed = static_cast<uint64_t>(seeds[row]);
      const Words words = philox(static_cast<uint32_t>(block), index, 0u, 0u,
                                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      float normals[4];
      two_normals(words.w[0], words.w[1], &normals[0], &normals[1]);
      two_normals(words.w[2], words.w[3], &normals[2], &normals[3]);
      float* to = noise + row * ld + 4 * block;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (4 * block + j < n) to[j] = normals[j];
    });
  }

  // The state at the start.
  __device__ __forceinline__ void draw() const {
    const float* const noise = at(kRegNoise);
    float* const state = at(kRegState);
    const auto scale = static_cast<float>(program.plan[kPlanInit]);
    team.on_floats(ld, static_cast<int>(padded(program.head(kHeadChunk))),
                   [&](int place, int) { state[place] = noise[place] * scale; });
  }

  // Works on the rows of a tile of the batch, from their inputs and seeds to their actions.
  // Other rows that have registers are computed from zeros and written nowhere. `execute(e)` runs the
  // instructions of an evaluation, or, for -1, those before the loop.
  template <class Execute>
  __device__ __forceinline__ void sample(int tile, Execute execute) const {
    start(tile);
    // The prologue counts as evaluation -1: instructions and noise are in the kernel only once.
#pragma unroll 1
    for (int e = -1; e < static_cast<int>(program.head(kHeadEvaluations)); ++e) {
      const bool is_prologue = e < 0;
      if (!is_prologue) {
        begin_evaluation(e);
        team.settle();
      }
      execute(e);
      // Nothing else reads or writes the noise: it needs no settling before.
      if (is_prologue || program.evaluation(e)[kPlanNoise] != 0.0)
        fill_noise(tile, is_prologue ? 0u : static_cast<uint32_t>(program.evaluation(e)[kPlanNoiseIndex]));
      team.settle();
      if (is_prologue)
        draw();
      else
        step(e);
      team.settle();
    }
    finish(tile);
  }
};

}  // namespace cuda
}  // namespace genpolicy
