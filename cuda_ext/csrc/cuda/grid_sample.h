// What a call is made of, and the launch of a program on all blocks of a device. Host only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../program.h"

namespace genpolicy {
namespace cuda {

// Pointers but `code` and `plan` are in the device's memory.
struct Call {
  Program host;  // code and plan, in the host's memory; vectors and weights
  int64_t n_code, n_plan;
  const float* inputs;
  const int64_t* seeds;
  float* out;
  int64_t n_rows;
};

// Bytes of the workspace.
cudaError_t grid_workspace(const Call& call, int device, int64_t* bytes);

// Queues the whole loop, with `device` current.
cudaError_t grid_sample(const Call& call, void* workspace, int64_t bytes, int device, cudaStream_t stream);

}  // namespace cuda
}  // namespace genpolicy
