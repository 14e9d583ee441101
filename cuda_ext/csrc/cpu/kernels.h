// The functions that exist once per instruction set.
#pragma once

#include "../program.h"

namespace genpolicy {

struct Kernels {
  const char* name;
  // The whole loop for n_rows rows; floats holds n_rows * row_floats floats, pairs n_rows *
  // row_floats / 2 words.
  void (*sample_rows)(const Program& program, const float* inputs, const int64_t* seeds, float* out,
                      int64_t n_rows, float* floats, uint32_t* pairs);
  void (*fill_noise)(const int64_t* seeds, int64_t n_rows, int64_t n, uint32_t index,
                     uint32_t stream, float* out, int64_t ld);
  double (*peak_gflops)();
  double (*read_gbytes)(const float* data, int64_t n_bytes);
};

extern const Kernels kPlainKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
#endif

// The best kernels that this processor runs; GENPOLICY_ISA=plain|avx2|avx512 asks for others.
const Kernels& kernels();

}  // namespace genpolicy
