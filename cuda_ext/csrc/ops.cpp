// The operators' CPU side: checks, threads, registration.
//
// Only torch's stable ABI is used, so one build serves every torch from 2.10 on. Schemas are defined
// in genpolicy/ops/library.py; this library adds implementations to them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "cpu/kernels.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace genpolicy {
namespace {

// Groups of rows of a tile: its registers fit into the second cache.
constexpr int64_t kMostGroups = 4;

void run_parallel(int64_t n, int64_t grain, Job job, void* data) {
  if (n <= grain)
    job(data, 0, n);
  else
    torch::stable::parallel_for(0, n, grain,
                                [=](int64_t begin, int64_t end) { job(data, begin, end); });
}

struct Free {
  void operator()(void* at) const { std::free(at); }
};

// Memory of a thread that is kept from call to call.
template <class T>
T* scratch(std::unique_ptr<T, Free>& kept, int64_t& capacity, int64_t size) {
  if (size > capacity) {
    const int64_t bytes = (size * int64_t{sizeof(T)} + 63) / 64 * 64;
    kept.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    capacity = kept ? size : 0;
    STD_TORCH_CHECK(kept != nullptr, "mlp_sample: no memory for ", bytes, " bytes of registers");
  }
  return kept.get();
}

void check_cpu(const char* op, const char* name, const Tensor& tensor, ScalarType type, int64_t dim) {
  STD_TORCH_CHECK(tensor.is_cpu(), op, ": ", name, " is not on the CPU; move all tensors to one device");
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, " has another type than expected");
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": ", name, " has ", tensor.dim(), " axes, expected ", dim);
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " is not contiguous");
}

Tensor mlp_sample(const Tensor& inputs, const Tensor& seeds, const Tensor& code, const Tensor& plan,
                  const Tensor& vectors, const Tensor& weights, int64_t chunk) {
  const char* op = "mlp_sample";
  check_cpu(op, "inputs", inputs, ScalarType::Float, 2);
  check_cpu(op, "seeds", seeds, ScalarType::Long, 1);
  check_cpu(op, "code", code, ScalarType::Long, 1);
  check_cpu(op, "plan", plan, ScalarType::Double, 1);
  check_cpu(op, "vectors", vectors, ScalarType::Float, 1);
  const bool is_bf16 = weights.scalar_type() == ScalarType::BFloat16;
  check_cpu(op, "weights", weights, is_bf16 ? ScalarType::BFloat16 : ScalarType::Float, 1);
  const Program program{static_cast<const int64_t*>(code.const_data_ptr()),
                        static_cast<const double*>(plan.const_data_ptr()),
                        static_cast<const float*>(vectors.const_data_ptr()),
                        weights.const_data_ptr()};
  const char* fault =
      fault_of(program, code.numel(), plan.numel(), vectors.numel(), weights.numel());
  STD_TORCH_CHECK(fault == nullptr, op, ": ", fault ? fault : "");
  STD_TORCH_CHECK(program.is_bf16() == is_bf16, op,
                  ": the program and its weights are of different precision");
  STD_TORCH_CHECK(program.pieces() == 1 || kernels().has_matrix_unit, op, ": the kernels ",
                  kernels().name, " have no products of numbers in pieces; write the program again ",
                  "on this machine, or with sampler.precision=fp32");
  const int64_t n_rows = inputs.size(0);
  STD_TORCH_CHECK(chunk == program.head(kHeadChunk), op, ": chunk is ", chunk,
                  ", the program makes ", program.head(kHeadChunk), " numbers");
  STD_TORCH_CHECK(inputs.size(1) == program.head(kHeadInputs), op, ": inputs have ", inputs.size(1),
                  " columns, the program takes ", program.head(kHeadInputs));
  STD_TORCH_CHECK(seeds.size(0) == n_rows, op, ": got ", seeds.size(0), " seeds for ", n_rows,
                  " rows");
  const int64_t shape[2] = {n_rows, chunk};
  Tensor out = torch::stable::empty({shape, 2}, ScalarType::Float);
  if (n_rows == 0) return out;
  const float* in = static_cast<const float*>(inputs.const_data_ptr());
  const int64_t* keys = static_cast<const int64_t*>(seeds.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());

  const int64_t row_floats = program.head(kHeadRowFloats), n_inputs = program.head(kHeadInputs);
  const int64_t work = n_rows * program.head(kHeadEvaluations) * weights.numel();
  // Threads share the products of one tile of a program with convolutions.
  const bool is_one = work < 2 * kWorkOfThread || program.has_convolutions();
  const int64_t most = is_one ? 1 : torch::stable::get_num_threads();
  const int64_t n_threads = std::clamp<int64_t>(work / kWorkOfThread, 1, most);
  const int64_t share = (n_rows + n_threads - 1) / n_threads;
  const Kernels& chosen = kernels();
  const int64_t group = is_bf16 ? chosen.group_bf16 : chosen.group;
  const int64_t n_groups = std::min(kMostGroups, (share + group - 1) / group);
  const int64_t tile = share > group ? n_groups * group : share;
  const int64_t n_tiles = (n_rows + tile - 1) / tile;
  auto work_on = [&](int64_t begin, int64_t end) {
    thread_local std::unique_ptr<float, Free> floats;
    thread_local std::unique_ptr<uint32_t, Free> rounded;
    thread_local int64_t n_floats = 0, n_rounded = 0;
    float* registers = scratch(floats, n_floats, tile * row_floats);
    // A matrix unit reads whole groups of rows, also where there is only one, and every second of them.
    const int64_t n_words = 2 * (tile + group) * row_floats * program.pieces();
    uint32_t* words = is_bf16 ? scratch(rounded, n_rounded, n_words) : nullptr;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * tile, rows = std::min(tile, n_rows - first);
      chosen.sample_rows(program, in + first * n_inputs, keys + first, to + first * chunk, rows,
                         registers, words, run_parallel);
    }
  };
  if (n_threads == 1)
    work_on(0, n_tiles);
  else
    torch::stable::parallel_for(0, n_tiles, (n_tiles + n_threads - 1) / n_threads, work_on);
  return out;
}

Tensor row_noise(const Tensor& seeds, int64_t n_values, int64_t index, int64_t stream) {
  check_cpu("row_noise", "seeds", seeds, ScalarType::Long, 1);
  const int64_t most = int64_t{1} << 32;
  STD_TORCH_CHECK(n_values >= 1 && n_values < most && index >= 0 && index < most && stream >= 0 &&
                      stream < most,
                  "row_noise: n_values, index and stream have to lie in [0, 2^32)");
  const int64_t n_rows = seeds.size(0);
  const int64_t shape[2] = {n_rows, n_values};
  Tensor out = torch::stable::empty({shape, 2}, ScalarType::Float);
  kernels().fill_noise(static_cast<const int64_t*>(seeds.const_data_ptr()), n_rows, n_values,
                       static_cast<uint32_t>(index), static_cast<uint32_t>(stream),
                       static_cast<float*>(out.mutable_data_ptr()), n_values);
  return out;
}

}  // namespace
}  // namespace genpolicy

STABLE_TORCH_LIBRARY_IMPL(genpolicy, CPU, library) {
  library.impl("mlp_sample", TORCH_BOX(&genpolicy::mlp_sample));
  library.impl("row_noise", TORCH_BOX(&genpolicy::row_noise));
}

#define GP_EXPORT extern "C" __attribute__((visibility("default")))

GP_EXPORT const char* genpolicy_isa() { return genpolicy::kernels().name; }
GP_EXPORT const char* genpolicy_isas() { return genpolicy::runnable_kernels(); }
GP_EXPORT int genpolicy_has_matrix_unit() { return genpolicy::kernels().has_matrix_unit; }
GP_EXPORT int64_t genpolicy_multiply_adds(int64_t n_turns) {
  return genpolicy::kernels().multiply_adds(n_turns);
}
GP_EXPORT double genpolicy_peak_gflops() { return genpolicy::kernels().peak_gflops(); }
GP_EXPORT double genpolicy_read_gbytes(const float* data, int64_t n_bytes) {
  return genpolicy::kernels().read_gbytes(data, n_bytes);
}
