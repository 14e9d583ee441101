// The operators' CUDA side: checks, memory, the current stream. The kernels are behind cuda/api.h.
//
// A program's code and plan stay on the host, whatever the device: they are checked there at every call,
// and what was checked is what the kernel gets, so that nothing has to be copied back, cached or trusted.
// They are a few kilobytes, and go to the device with the launch. Everything else lies on one device.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "program.h"
#include "streams.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace genpolicy {
namespace {

void check(const char* op, const char* name, const Tensor& tensor, ScalarType type, int64_t dim) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, " has another type than expected");
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": ", name, " has ", tensor.dim(), " axes, expected ", dim);
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " is not contiguous");
}

void check_host(const char* op, const char* name, const Tensor& tensor, ScalarType type) {
  STD_TORCH_CHECK(tensor.is_cpu(), op, ": ", name,
                  " is not on the CPU; a program's code and plan stay there on every device");
  check(op, name, tensor, type, 1);
}

void check_device(const char* op, const char* name, const Tensor& tensor, ScalarType type, int64_t dim,
                  int32_t device) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device, op, ": ", name,
                  " is not on the CUDA device of the seeds (", device, "); move all tensors but the ",
                  "program's code and plan to one device");
  check(op, name, tensor, type, dim);
}

int32_t device_of(const char* op, const Tensor& seeds) {
  STD_TORCH_CHECK(seeds.is_cuda(), op, ": seeds are not on a CUDA device, but other tensors are; ",
                  "move all tensors but the program's code and plan to one device");
  return seeds.get_device_index();
}

template <class T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Tensor mlp_sample_cuda(const Tensor& inputs, const Tensor& seeds, const Tensor& code,
                       const Tensor& plan, const Tensor& vectors, const Tensor& weights,
                       int64_t chunk) {
  const char* op = "mlp_sample";
  const int32_t device = device_of(op, seeds);
  const bool is_bf16 = weights.scalar_type() == ScalarType::BFloat16;
  check_device(op, "seeds", seeds, ScalarType::Long, 1, device);
  check_device(op, "inputs", inputs, ScalarType::Float, 2, device);
  check_device(op, "vectors", vectors, ScalarType::Float, 1, device);
  check_device(op, "weights", weights, is_bf16 ? ScalarType::BFloat16 : ScalarType::Float, 1, device);
  check_host(op, "code", code, ScalarType::Long);
  check_host(op, "plan", plan, ScalarType::Double);
  const Program program{data_of<int64_t>(code), data_of<double>(plan), nullptr, nullptr};
  const char* fault =
      fault_of(program, code.numel(), plan.numel(), vectors.numel(), weights.numel());
  STD_TORCH_CHECK(fault == nullptr, op, ": ", fault ? fault : "");
  STD_TORCH_CHECK(program.is_bf16() == is_bf16, op,
                  ": the program and its weights are of different precision");
  STD_TORCH_CHECK(program.pieces() == 1, op, ": CUDA kernels have no products of numbers in pieces; ",
                  "write the program again for this device");
  const int64_t n_rows = inputs.size(0);
  STD_TORCH_CHECK(chunk == program.head(kHeadChunk), op, ": chunk is ", chunk,
                  ", the program makes ", program.head(kHeadChunk), " numbers");
  STD_TORCH_CHECK(inputs.size(1) == program.head(kHeadInputs), op, ": inputs have ", inputs.size(1),
                  " columns, the program takes ", program.head(kHeadInputs));
  STD_TORCH_CHECK(seeds.size(0) == n_rows, op, ": got ", seeds.size(0), " seeds for ", n_rows,
                  " rows");
  const int64_t shape[2] = {n_rows, chunk};
  Tensor out = torch::stable::new_empty(inputs, {shape, 2});
  if (n_rows == 0) return out;
  int64_t bytes = 0;
  check_done(op, genpolicy_cuda_mlp_sample_workspace(program.code, code.numel(), program.plan,
                                                     plan.numel(), vectors.numel(), weights.numel(),
                                                     n_rows, device, &bytes));
  // Freed when this function returns, for work that is queued behind the kernel on the same stream.
  const int64_t words[1] = {bytes / 8};
  Tensor workspace = torch::stable::new_empty(seeds, {words, 1});
  check_done(op, genpolicy_cuda_mlp_sample(
                     data_of<float>(inputs), data_of<int64_t>(seeds), program.code, code.numel(),
                     program.plan, plan.numel(), data_of<float>(vectors), vectors.numel(),
                     weights.const_data_ptr(), weights.numel(),
                     static_cast<float*>(out.mutable_data_ptr()), n_rows,
                     workspace.mutable_data_ptr(), bytes, device, stream_of(device)));
  return out;
}

Tensor row_noise_cuda(const Tensor& seeds, int64_t n_values, int64_t index, int64_t stream) {
  const char* op = "row_noise";
  const int32_t device = device_of(op, seeds);
  check_device(op, "seeds", seeds, ScalarType::Long, 1, device);
  const int64_t most = int64_t{1} << 32;
  STD_TORCH_CHECK(n_values >= 1 && n_values < most && index >= 0 && index < most && stream >= 0 &&
                      stream < most,
                  "row_noise: n_values, index and stream have to lie in [0, 2^32)");
  const int64_t n_rows = seeds.size(0);
  const int64_t shape[2] = {n_rows, n_values};
  Tensor out = torch::stable::new_empty(seeds, {shape, 2}, ScalarType::Float);
  if (n_rows == 0) return out;
  check_done(op, genpolicy_cuda_row_noise(data_of<int64_t>(seeds), n_rows, n_values,
                                          static_cast<uint32_t>(index), static_cast<uint32_t>(stream),
                                          static_cast<float*>(out.mutable_data_ptr()), device,
                                          stream_of(device)));
  return out;
}

}  // namespace
}  // namespace genpolicy

STABLE_TORCH_LIBRARY_IMPL(genpolicy, CUDA, library) {
  library.impl("mlp_sample", TORCH_BOX(&genpolicy::mlp_sample_cuda));
  library.impl("row_noise", TORCH_BOX(&genpolicy::row_noise_cuda));
}
