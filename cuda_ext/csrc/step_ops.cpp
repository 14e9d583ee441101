// The binding of single steps, affine_step and compose_step: checks, memory, threads or the stream.
//
// Tensors are contiguous, of one type (float or double) and on one device. Schemas are defined in
// genpolicy/ops/step.py, whose functions see to that.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#if defined(GENPOLICY_WITH_CUDA)
#include "streams.h"
#endif

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace genpolicy {
namespace {

using Optional = std::optional<Tensor>;

// Numbers that are worth a thread of their own: some 20 microseconds.
constexpr int64_t kNumbersOfThread = 1 << 16;
constexpr int64_t kMostDraws = int64_t{1} << 32;

// What both operators are told of the step.
struct Told {
  const Optional& previous;
  const Optional& noise;
  const Optional& seeds;
  int64_t index;
  const std::vector<double>& factors;
  std::optional<double> lo, hi;
  const Optional& pinned;
  const Optional& mask;
};

void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.device() == x.device(), op, ": ", name, " is on another device than x");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), op, ": ", name,
                  " has another type than x");
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " is not contiguous");
  STD_TORCH_CHECK(tensor.dim() == x.dim() && tensor.numel() == x.numel(), op, ": ", name,
                  " has another shape than x");
}

template <class T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* like(const char* op, const char* name, const Optional& tensor, const Tensor& x) {
  if (!tensor) return nullptr;
  check_like(op, name, *tensor, x);
  return data_of<T>(*tensor);
}

template <class T>
StepArguments<T> arguments_of(const char* op, const Tensor& x, const Told& told) {
  STD_TORCH_CHECK(x.is_contiguous(), op, ": x is not contiguous");
  STD_TORCH_CHECK(x.dim() >= 1, op, ": x has no rows");
  STD_TORCH_CHECK(told.factors.size() == 4, op, ": got ", told.factors.size(),
                  " factors, expected those of x, denoised, previous and noise");
  STD_TORCH_CHECK(told.index >= 0 && told.index < kMostDraws, op,
                  ": index has to lie in [0, 2^32)");
  StepArguments<T> a{};
  a.n_rows = x.size(0);
  a.n = a.n_rows > 0 ? x.numel() / a.n_rows : 1;
  a.x = data_of<T>(x);
  a.previous = like<T>(op, "previous", told.previous, x);
  a.noise = like<T>(op, "noise", told.noise, x);
  a.pinned = like<T>(op, "pinned", told.pinned, x);
  STD_TORCH_CHECK(told.pinned.has_value() == told.mask.has_value(), op,
                  ": pinned and mask come together");
  if (told.mask) {
    STD_TORCH_CHECK(told.mask->scalar_type() == ScalarType::Bool && told.mask->is_contiguous() &&
                        told.mask->numel() == x.numel() && told.mask->device() == x.device(),
                    op, ": mask is no contiguous bool tensor of the shape and device of x");
    a.mask = data_of<bool>(*told.mask);
  }
  if (told.seeds) {
    STD_TORCH_CHECK(sizeof(T) == sizeof(float) && !told.noise, op,
                    ": seeds are for float32, and where there is no noise");
    STD_TORCH_CHECK(told.seeds->scalar_type() == ScalarType::Long && told.seeds->is_contiguous() &&
                        told.seeds->dim() == 1 && told.seeds->size(0) == a.n_rows &&
                        told.seeds->device() == x.device(),
                    op, ": seeds are no contiguous int64 tensor with one seed per row of x");
    a.seeds = data_of<int64_t>(*told.seeds);
  }
  a.index = static_cast<uint32_t>(told.index);
  a.c_x = static_cast<T>(told.factors[0]);
  a.c_denoised = static_cast<T>(told.factors[1]);
  a.c_previous = static_cast<T>(told.factors[2]);
  a.c_noise = static_cast<T>(told.factors[3]);
  a.lo = static_cast<T>(told.lo.value_or(-std::numeric_limits<double>::infinity()));
  a.hi = static_cast<T>(told.hi.value_or(std::numeric_limits<double>::infinity()));
  return a;
}

template <class T>
void add_output(const char* op, StepArguments<T>& a, const Tensor& output, double term,
                const Tensor& x) {
  check_like(op, "an output", output, x);
  a.outputs[a.n_outputs] = data_of<T>(output);
  a.terms[a.n_outputs++] = static_cast<T>(term);
}

void run_rows(const StepArguments<float>& a, int64_t begin, int64_t end, float* floats) {
  kernels().step_floats(a, begin, end, floats);
}

void run_rows(const StepArguments<double>& a, int64_t begin, int64_t end, float* floats) {
  kernels().step_doubles(a, begin, end, floats);
}

template <class T>
void run(const char* op, const StepArguments<T>& a, const Tensor& x) {
  if (a.n_rows == 0 || a.n == 0) return;
#if defined(GENPOLICY_WITH_CUDA)
  if (x.is_cuda()) {
    const int32_t device = x.get_device_index();
    check_done(op, genpolicy_cuda_step(&a, sizeof(T), device, stream_of(device)));
    return;
  }
#endif
  STD_TORCH_CHECK(x.is_cpu(), op, ": there are no kernels for the device of x");
  auto work = [&](int64_t begin, int64_t end) {
    std::vector<float> floats(a.seeds ? std::max<int64_t>(256, a.n) : 0);
    run_rows(a, begin, end, floats.data());
  };
  const int64_t grain = std::max<int64_t>(1, kNumbersOfThread / a.n);
  if (a.n_rows <= grain)
    work(0, a.n_rows);
  else
    torch::stable::parallel_for(0, a.n_rows, grain, work);
}

template <class T>
void affine(const Tensor& x, const Tensor& denoised, const Told& told, Tensor& out) {
  const char* op = "affine_step";
  StepArguments<T> a = arguments_of<T>(op, x, told);
  add_output(op, a, denoised, 1.0, x);
  a.out = static_cast<T*>(out.mutable_data_ptr());
  run(op, a, x);
}

Tensor affine_step(const Tensor& x, const Tensor& denoised, const Optional& previous,
                   const Optional& noise, const Optional& seeds, int64_t index,
                   const std::vector<double>& factors, std::optional<double> lo,
                   std::optional<double> hi, const Optional& pinned, const Optional& mask) {
  const Told told{previous, noise, seeds, index, factors, lo, hi, pinned, mask};
  Tensor out = torch::stable::empty_like(x);
  if (x.scalar_type() == ScalarType::Double)
    affine<double>(x, denoised, told, out);
  else
    affine<float>(x, denoised, told, out);
  return out;
}

template <class T>
void compose(const char* op, const Tensor& x, const Optional& at, const std::vector<Tensor>& outputs,
             const std::vector<double>& terms, const Optional& shift, const Told& told, Tensor& out,
             Tensor& denoised) {
  STD_TORCH_CHECK(outputs.size() <= kMostOutputs && terms.size() == outputs.size() + 1, op, ": got ",
                  outputs.size(), " outputs and ", terms.size(), " terms, expected at most ",
                  kMostOutputs, " outputs and a term for the state and for each output");
  StepArguments<T> a = arguments_of<T>(op, x, told);
  a.on_x = static_cast<T>(terms[0]);
  if (terms[0] != 0.0) a.at = at ? like<T>(op, "at", at, x) : a.x;
  for (size_t i = 0; i < outputs.size(); ++i) add_output(op, a, outputs[i], terms[i + 1], x);
  if (shift) {
    STD_TORCH_CHECK(shift->scalar_type() == x.scalar_type() && shift->is_contiguous() &&
                        shift->device() == x.device() && (a.n_rows == 0 || shift->numel() == a.n),
                    op, ": shift is not a row of x");
    a.shift = data_of<T>(*shift);
  }
  a.out = static_cast<T*>(out.mutable_data_ptr());
  a.denoised = static_cast<T*>(denoised.mutable_data_ptr());
  run(op, a, x);
}

Tensor compose_into(const char* op, const Tensor& x, const Optional& at,
                    const std::vector<Tensor>& outputs, const std::vector<double>& terms,
                    const Optional& shift, const Told& told, Tensor& out) {
  Tensor denoised = torch::stable::empty_like(x);
  if (x.scalar_type() == ScalarType::Double)
    compose<double>(op, x, at, outputs, terms, shift, told, out, denoised);
  else
    compose<float>(op, x, at, outputs, terms, shift, told, out, denoised);
  return denoised;
}

std::tuple<Tensor, Tensor> compose_step(
    const Tensor& x, const Optional& at, const std::vector<Tensor>& outputs,
    const std::vector<double>& terms, const Optional& shift, const Optional& previous,
    const Optional& noise, const Optional& seeds, int64_t index, const std::vector<double>& factors,
    std::optional<double> lo, std::optional<double> hi, const Optional& pinned,
    const Optional& mask) {
  Tensor out = torch::stable::empty_like(x);
  Tensor denoised =
      compose_into("compose_step", x, at, outputs, terms, shift,
                   Told{previous, noise, seeds, index, factors, lo, hi, pinned, mask}, out);
  return {out, denoised};
}

Tensor compose_step_(Tensor x, const Optional& at, const std::vector<Tensor>& outputs,
                     const std::vector<double>& terms, const Optional& shift,
                     const Optional& previous, const Optional& noise, const Optional& seeds,
                     int64_t index, const std::vector<double>& factors, std::optional<double> lo,
                     std::optional<double> hi, const Optional& pinned, const Optional& mask) {
  return compose_into("compose_step_", x, at, outputs, terms, shift,
                      Told{previous, noise, seeds, index, factors, lo, hi, pinned, mask}, x);
}

}  // namespace
}  // namespace genpolicy

#define GENPOLICY_STEPS(device)                                                  \
  STABLE_TORCH_LIBRARY_IMPL(genpolicy, device, library) {                        \
    library.impl("affine_step", TORCH_BOX(&genpolicy::affine_step));             \
    library.impl("compose_step", TORCH_BOX(&genpolicy::compose_step));           \
    library.impl("compose_step_", TORCH_BOX(&genpolicy::compose_step_));         \
  }

GENPOLICY_STEPS(CPU)
#if defined(GENPOLICY_WITH_CUDA)
GENPOLICY_STEPS(CUDA)
#endif
