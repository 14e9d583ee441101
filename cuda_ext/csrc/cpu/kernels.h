// The functions that exist once per instruction set.
#pragma once

#include "../program.h"
#include "../step.h"

namespace genpolicy {

// Runs job(data, begin, end) on parts of [0, n) of at least `grain`, on several threads where it can.
// A plain function: templates of the standard library must not be compiled for one instruction set
// and linked into the code of all.
using Job = void (*)(void* data, int64_t begin, int64_t end);
using Parallel = void (*)(int64_t n, int64_t grain, Job job, void* data);

// Multiplications that are worth a thread of their own: about 30 microseconds of work.
constexpr int64_t kWorkOfThread = 3'000'000;

struct Kernels {
  const char* name;
  bool has_matrix_unit;  // runs programs whose numbers are in pieces
  // Rows that products work on together, with weights in float32 and in bfloat16: a tile is a multiple.
  int64_t group, group_bf16;
  // The whole loop for n_rows rows; floats holds n_rows * row_floats floats, words twice as many and
  // group_bf16 rows more, for programs in bfloat16, of each piece. Threads share the products of convolutions
  // through `parallel`.
  void (*sample_rows)(const Program& program, const float* inputs, const int64_t* seeds, float* out,
                      int64_t n_rows, float* floats, uint32_t* words, Parallel parallel);
  void (*fill_noise)(const int64_t* seeds, int64_t n_rows, int64_t n, uint32_t index,
                     uint32_t stream, float* out, int64_t ld);
  // Steps of rows [begin, end); `floats` holds 256 floats, or those of a row where it has more.
  void (*step_floats)(const StepArguments<float>& step, int64_t begin, int64_t end, float* floats);
  void (*step_doubles)(const StepArguments<double>& step, int64_t begin, int64_t end, float* floats);
  int64_t (*multiply_adds)(int64_t n_turns);
  double (*peak_gflops)();
  double (*read_gbytes)(const float* data, int64_t n_bytes);
};

extern const Kernels kPlainKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAmxBf16Kernels;
#endif

// The best kernels that this processor runs, or those that GENPOLICY_ISA names.
const Kernels& kernels();

// The names of all that this processor runs, with spaces between them.
const char* runnable_kernels();

}  // namespace genpolicy
