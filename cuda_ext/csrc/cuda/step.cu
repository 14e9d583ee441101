// A step of the loop: four successive numbers of a row per thread, which is a block of the noise.
#include "../step.h"
#include "api.h"
#include "host.h"
#include "machine.cuh"

namespace genpolicy {
namespace cuda {

template <class T>
__device__ __forceinline__ void step_four(const StepArguments<T>& a, int64_t row, int64_t first) {
  const int64_t n = a.n, base = row * n + first;
  T fresh[4] = {};
  if constexpr (sizeof(T) == sizeof(float)) {
    if (a.seeds) {
      const auto seed = static_cast<uint64_t>(a.seeds[row]);
      const Words words = philox(static_cast<uint32_t>(first / 4), a.index, 0u, 0u,
                                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      two_normals(words.w[0], words.w[1], &fresh[0], &fresh[1]);
      two_normals(words.w[2], words.w[3], &fresh[2], &fresh[3]);
    }
  }
  const int count = static_cast<int>(n - first < 4 ? n - first : 4);
  for (int j = 0; j < count; ++j) {
    const int64_t k = base + j;
    T denoised = a.at ? a.on_x * a.at[k] : T(0);
    if (a.shift) denoised += a.shift[first + j];
    for (int64_t i = 0; i < a.n_outputs; ++i) denoised += a.terms[i] * a.outputs[i][k];
    const T drawn = j < 2 ? (j == 0 ? fresh[0] : fresh[1]) : (j == 2 ? fresh[2] : fresh[3]);
    T next = stepped(a, a.x[k], denoised, a.noise ? a.noise[k] : drawn);
    if (a.previous) next += earlier(a, a.previous[k]);
    if (a.mask && a.mask[k]) next = a.pinned[k];
    if (a.denoised) a.denoised[k] = denoised;
    a.out[k] = next;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) step_kernel(const StepArguments<T> arguments) {
  const int64_t n_blocks = (arguments.n + 3) / 4, stride = int64_t{gridDim.x} * kThreads;
  for (int64_t job = int64_t{blockIdx.x} * kThreads + threadIdx.x; job < arguments.n_rows * n_blocks;
       job += stride)
    step_four(arguments, job / n_blocks, 4 * (job % n_blocks));
}

template <class T>
cudaError_t launch(const StepArguments<T>& given, int device, void* stream) {
  if (given.n_rows < 0 || given.n < 0 || given.n_outputs < 0 || given.n_outputs > kMostOutputs)
    return cudaErrorInvalidValue;
  const int64_t n_jobs = given.n_rows * ((given.n + 3) / 4);
  if (n_jobs == 0) return cudaSuccess;
  const OnDevice guard(device);
  GENPOLICY_TRY(guard.error());
  // More than any device runs at once; the rest is the loop's.
  const int64_t most = 1 << 14, wanted = (n_jobs + kThreads - 1) / kThreads;
  StepArguments<T> arguments = given;
  void* list[] = {&arguments};
  return cudaLaunchKernel(step_kernel<T>, dim3(static_cast<unsigned>(wanted < most ? wanted : most)),
                          dim3(kThreads), list, 0, static_cast<cudaStream_t>(stream));
}

}  // namespace cuda
}  // namespace genpolicy

extern "C" __attribute__((visibility("default"))) int genpolicy_cuda_step(const void* arguments,
                                                                         int64_t size, int device,
                                                                         void* stream) {
  using namespace genpolicy;
  if (size == sizeof(float))
    return cuda::launch(*static_cast<const StepArguments<float>*>(arguments), device, stream);
  if (size == sizeof(double))
    return cuda::launch(*static_cast<const StepArguments<double>*>(arguments), device, stream);
  return cudaErrorInvalidValue;
}
