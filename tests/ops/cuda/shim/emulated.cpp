// All kernels and their hosts' sides in one file, and what tests ask the emulated GPU.
#include "cuda_runtime.h"

#include "cuda/grid_sample.cu"
#include "cuda/mlp_sample.cu"
#include "cuda/row_noise.cu"
#include "cuda/step.cu"

extern "C" __attribute__((visibility("default"))) const int64_t* emulated_last_launch() {
  return emulated::last_launch;
}

extern "C" __attribute__((visibility("default"))) int emulated_attribute_calls() {
  return emulated::n_attribute_calls;
}

extern "C" __attribute__((visibility("default"))) int emulated_current_device() {
  return emulated::current_device;
}

// Of a program on all blocks of a device: waits of an evaluation, norms behind products, norms apart, and
// jobs whose items are chunks.
extern "C" __attribute__((visibility("default"))) void emulated_schedule(const int64_t* code,
                                                                         const double* plan, int n_rows,
                                                                         int tile, int64_t n_blocks,
                                                                         int64_t* found) {
  const genpolicy::Program program{code, plan, nullptr, nullptr};
  const genpolicy::cuda::Schedule made = genpolicy::cuda::schedule(program, n_rows, tile, n_blocks);
  for (size_t n = static_cast<size_t>(made.n_prologue); n < made.jobs.size(); ++n) {
    const genpolicy::cuda::Job& job = made.jobs[n];
    found[0] += job.waits;
    found[1] += job.has_norm;
    found[2] += program.instruction(job.first)[genpolicy::kFieldOp] == genpolicy::kOpGroupNorm;
    found[3] += job.is_split;
  }
  found[4] += made.n_counters;
  found[5] += made.n_partials;
}
