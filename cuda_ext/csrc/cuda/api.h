// The CUDA kernels as C functions: what cuda_ops.cpp and tests call. No CUDA header is needed here.
//
// Every function returns a cudaError_t, 0 for success, and leaves the calling thread's device as it
// was. `stream` is a cudaStream_t of `device`. Work is queued there, and nothing waits for it.
#pragma once

#include <cstdint>

extern "C" {

// Bytes of device memory that genpolicy_cuda_mlp_sample needs for this program, batch and device.
int genpolicy_cuda_mlp_sample_workspace(const int64_t* code, int64_t n_code, const double* plan,
                                        int64_t n_plan, int64_t n_vectors, int64_t n_weights,
                                        int64_t n_rows, int device, int64_t* bytes);

// The whole denoising loop of a batch. `code` and `plan` are in the host's memory: what is checked
// there is what runs, because the device's copy is made from it, into the workspace, by every call. In
// pageable memory they may change as soon as the call returns, in pinned memory once the stream is
// past it. Everything else is in the device's memory: `inputs` (n_rows, inputs of a row), `seeds`
// (n_rows), `out` (n_rows, chunk), and, aligned to 16 bytes, `weights` and `workspace`.
int genpolicy_cuda_mlp_sample(const float* inputs, const int64_t* seeds, const int64_t* code,
                              int64_t n_code, const double* plan, int64_t n_plan, const float* vectors,
                              int64_t n_vectors, const void* weights, int64_t n_weights, float* out,
                              int64_t n_rows, void* workspace, int64_t workspace_bytes, int device,
                              void* stream);

// Standard normal numbers of one draw, (n_rows, n_values), see genpolicy/ops/noise.py.
int genpolicy_cuda_row_noise(const int64_t* seeds, int64_t n_rows, int64_t n_values, uint32_t index,
                             uint32_t stream_number, float* out, int device, void* stream);

// One step of the loop: a StepArguments (csrc/step.h) of numbers of `size` bytes, with its pointers in
// the device's memory.
int genpolicy_cuda_step(const void* arguments, int64_t size, int device, void* stream);

// The name and a description of an error.
const char* genpolicy_cuda_error_name(int error);
const char* genpolicy_cuda_error_text(int error);

}  // extern "C"
