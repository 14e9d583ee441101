// All kernels and their hosts' sides in one file, and what tests ask the emulated GPU.
#include "cuda_runtime.h"

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
