// What the CUDA sides of the bindings share: torch's current stream, and errors.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "cuda/api.h"

// In torch's CUDA library, which a CPU build of torch does not have: null there, where no tensor is on
// a CUDA device either.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                                  void** stream);

namespace genpolicy {

inline void* stream_of(int32_t device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "genpolicy_ext: this torch has no CUDA streams");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

inline void check_done(const char* op, int error) {
  STD_TORCH_CHECK(error == 0, op, ": ", genpolicy_cuda_error_name(error), ": ",
                  genpolicy_cuda_error_text(error));
}

}  // namespace genpolicy
