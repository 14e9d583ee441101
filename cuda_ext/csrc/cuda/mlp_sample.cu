// The kernel that runs a program without convolutions, how it is started, and the entry for all programs.
//
// One launch is a whole denoising loop: blocks take tiles of rows until none is left, and nothing but
// inputs, seeds and actions passes through global memory where a tile's registers fit into shared
// memory. Weights come from the second cache, through shared memory, once per tile and evaluation.
#include <array>
#include <mutex>

#include "api.h"
#include "choose.h"
#include "grid_sample.h"
#include "host.h"

namespace genpolicy {
namespace cuda {

template <int kRows, bool kBf16, bool kShared>
__global__ void __launch_bounds__(kThreads, kBlocksOfMultiprocessor)
    sample_kernel(const Arguments arguments) {
  const int ld = static_cast<int>(ld_of(arguments.program.head(kHeadRowFloats)));
  uint32_t* const stream = dynamic_shared();
  float* floats;
  if constexpr (kShared)
    floats = reinterpret_cast<float*>(stream + kStreamWords);
  else
    floats = arguments.registers + int64_t{blockIdx.x} * kRows * ld;
  const Tile<kRows, kBf16> tile{{arguments, arguments.program, BlockTeam<kRows>{}, floats, ld}, stream};
#pragma unroll 1
  for (int number = blockIdx.x; number * int64_t{kRows} < arguments.n_rows; number += gridDim.x)
    tile.sample(number);
}

namespace {

using Kernel = void (*)(Arguments);

template <bool kBf16>
Kernel kernel_of(const Choice& choice) {
  constexpr int kSmallest = smallest_tile(kBf16);
  if (!choice.is_shared)
    return choice.rows == kSmallest ? sample_kernel<kSmallest, kBf16, false>
                                    : sample_kernel<kMostRows, kBf16, false>;
  return choice.rows == kSmallest ? sample_kernel<kSmallest, kBf16, true>
         : choice.rows == 16      ? sample_kernel<16, kBf16, true>
                                  : sample_kernel<kMostRows, kBf16, true>;
}

// Asks for the facts of a device once; those beyond the table are asked for at every call.
cudaError_t find_device(int device, Device* found) {
  static std::mutex mutex;
  static std::array<Device, 64> known{};
  const bool has_place = device >= 0 && device < static_cast<int>(known.size());
  const std::lock_guard<std::mutex> guard(mutex);
  if (has_place && known[device].n_multiprocessors > 0) {
    *found = known[device];
    return cudaSuccess;
  }
  int n = 0, bytes = 0;
  GENPOLICY_TRY(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  GENPOLICY_TRY(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  *found = Device{n, bytes};
  if (has_place) known[device] = *found;
  return cudaSuccess;
}

bool is_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

// Whether all weights start at whole pieces of 16 bytes, which copies to shared memory need.
bool has_aligned_layers(const Program& program) {
  const int64_t n = program.head(kHeadPrologue) + program.head(kHeadBody);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t* at = program.instruction(i);
    const bool has_weights = at[kFieldOp] == kOpLinear || at[kFieldOp] == kOpConvolve;
    if (has_weights && at[kFieldWeights] % kPanel != 0) return false;
  }
  return true;
}

int64_t bytes_of_program(int64_t n_code, int64_t n_plan) {
  return ((n_code + n_plan) * 8 + 15) / 16 * 16;
}

bool is_sound(const Call& call, int64_t n_vectors, int64_t n_weights) {
  return call.n_rows >= 0 &&
         fault_of(call.host, call.n_code, call.n_plan, n_vectors, n_weights) == nullptr &&
         has_aligned_layers(call.host);
}

cudaError_t find_choice(const Program& program, int64_t n_rows, int device, Choice* choice) {
  Device facts;
  GENPOLICY_TRY(find_device(device, &facts));
  *choice =
      choose(program.head(kHeadRowFloats), program.is_bf16(), n_rows, facts);
  return cudaSuccess;
}

cudaError_t tile_sample(const Call& call, void* workspace, int64_t workspace_bytes, int device,
                        cudaStream_t stream) {
  Choice choice;
  GENPOLICY_TRY(find_choice(call.host, call.n_rows, device, &choice));
  const int64_t program_bytes = bytes_of_program(call.n_code, call.n_plan);
  if (workspace_bytes < program_bytes + choice.workspace_bytes) return cudaErrorInvalidValue;
  auto* const there = static_cast<int64_t*>(workspace);
  auto* const plan = there + call.n_code;
  GENPOLICY_TRY(
      cudaMemcpyAsync(there, call.host.code, call.n_code * 8, cudaMemcpyHostToDevice, stream));
  GENPOLICY_TRY(
      cudaMemcpyAsync(plan, call.host.plan, call.n_plan * 8, cudaMemcpyHostToDevice, stream));
  Arguments arguments{
      Program{there, reinterpret_cast<const double*>(plan), call.host.vectors, call.host.weights},
      call.inputs, call.seeds, call.out, call.n_rows,
      reinterpret_cast<float*>(there + program_bytes / 8)};
  const bool is_bf16 = call.host.is_bf16();
  const Kernel kernel = is_bf16 ? kernel_of<true>(choice) : kernel_of<false>(choice);
  const auto shared = static_cast<int>(choice.shared_bytes);
  GENPOLICY_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  void* list[] = {&arguments};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(choice.blocks)), dim3(kThreads), list,
                          static_cast<size_t>(shared), stream);
}

}  // namespace
}  // namespace cuda
}  // namespace genpolicy

using namespace genpolicy;
using namespace genpolicy::cuda;

extern "C" __attribute__((visibility("default"))) int genpolicy_cuda_mlp_sample_workspace(
    const int64_t* code, int64_t n_code, const double* plan, int64_t n_plan, int64_t n_vectors,
    int64_t n_weights, int64_t n_rows, int device, int64_t* bytes) {
  const Call call{{code, plan, nullptr, nullptr}, n_code, n_plan, nullptr, nullptr, nullptr, n_rows};
  if (!is_sound(call, n_vectors, n_weights)) return cudaErrorInvalidValue;
  if (call.host.has_convolutions()) return grid_workspace(call, device, bytes);
  Choice choice;
  GENPOLICY_TRY(find_choice(call.host, n_rows, device, &choice));
  *bytes = bytes_of_program(n_code, n_plan) + choice.workspace_bytes;
  return cudaSuccess;
}

extern "C" __attribute__((visibility("default"))) int genpolicy_cuda_mlp_sample(
    const float* inputs, const int64_t* seeds, const int64_t* code, int64_t n_code, const double* plan,
    int64_t n_plan, const float* vectors, int64_t n_vectors, const void* weights, int64_t n_weights,
    float* out, int64_t n_rows, void* workspace, int64_t workspace_bytes, int device, void* stream) {
  const Call call{{code, plan, vectors, weights}, n_code, n_plan, inputs, seeds, out, n_rows};
  if (!is_sound(call, n_vectors, n_weights)) return cudaErrorInvalidValue;
  if (n_rows == 0) return cudaSuccess;
  if (!is_aligned(workspace) || !is_aligned(weights)) return cudaErrorInvalidValue;
  const OnDevice guard(device);
  GENPOLICY_TRY(guard.error());
  const auto queue = static_cast<cudaStream_t>(stream);
  return call.host.has_convolutions() ? grid_sample(call, workspace, workspace_bytes, device, queue)
                                      : tile_sample(call, workspace, workspace_bytes, device, queue);
}

extern "C" __attribute__((visibility("default"))) const char* genpolicy_cuda_error_name(int error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}

extern "C" __attribute__((visibility("default"))) const char* genpolicy_cuda_error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
