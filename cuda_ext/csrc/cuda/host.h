// What the host's sides of both kernels share. Host only.
#pragma once

#include <cuda_runtime.h>

#define GENPOLICY_TRY(call)                                \
  do {                                                     \
    const cudaError_t genpolicy_error = (call);            \
    if (genpolicy_error != cudaSuccess) return genpolicy_error; \
  } while (false)

namespace genpolicy {
namespace cuda {

// Makes a device current for this thread, and the one before it again at the end.
class OnDevice {
 public:
  explicit OnDevice(int device) : error_(cudaGetDevice(&before_)) {
    if (error_ != cudaSuccess || before_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~OnDevice() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

}  // namespace cuda
}  // namespace genpolicy
