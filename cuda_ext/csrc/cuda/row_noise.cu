// Standard normal numbers by row: a block of four per thread, see genpolicy/ops/noise.py.
#include "api.h"
#include "host.h"
#include "machine.cuh"

namespace genpolicy {
namespace cuda {

struct NoiseArguments {
  const int64_t* seeds;
  int64_t n_rows, n_values;
  uint32_t index, stream;
  float* out;
};

__global__ void __launch_bounds__(kThreads) noise_kernel(const NoiseArguments arguments) {
  const int64_t n = arguments.n_values, n_blocks = (n + 3) / 4;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t job = int64_t{blockIdx.x} * kThreads + threadIdx.x; job < arguments.n_rows * n_blocks;
       job += stride) {
    const int64_t row = job / n_blocks, block = job % n_blocks;
    const auto seed = static_cast<uint64_t>(arguments.seeds[row]);
    const Words words =
        philox(static_cast<uint32_t>(block), arguments.index, arguments.stream, 0u,
               static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    float normals[4];
    two_normals(words.w[0], words.w[1], &normals[0], &normals[1]);
    two_normals(words.w[2], words.w[3], &normals[2], &normals[3]);
    float* to = arguments.out + row * n + 4 * block;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (4 * block + j < n) to[j] = normals[j];
  }
}

}  // namespace cuda
}  // namespace genpolicy

using namespace genpolicy::cuda;

extern "C" __attribute__((visibility("default"))) int genpolicy_cuda_row_noise(
    const int64_t* seeds, int64_t n_rows, int64_t n_values, uint32_t index, uint32_t stream_number,
    float* out, int device, void* stream) {
  if (n_rows < 0 || n_values < 0) return cudaErrorInvalidValue;
  const int64_t n_jobs = n_rows * ((n_values + 3) / 4);
  if (n_jobs == 0) return cudaSuccess;
  const OnDevice guard(device);
  GENPOLICY_TRY(guard.error());
  // More than any device runs at once; the rest is the loop's.
  const int64_t most = 1 << 14, wanted = (n_jobs + kThreads - 1) / kThreads;
  NoiseArguments arguments{seeds, n_rows, n_values, index, stream_number, out};
  void* list[] = {&arguments};
  return cudaLaunchKernel(noise_kernel, dim3(static_cast<unsigned>(wanted < most ? wanted : most)),
                          dim3(kThreads), list, 0, static_cast<cudaStream_t>(stream));
}
