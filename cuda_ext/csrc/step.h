// One step of the denoising loop for any network, for host and device alike.
//
//   denoised = on_x at + shift + sum_i terms_i outputs_i
//   out      = c_x x + c_denoised clip(denoised) + c_previous clip(previous) + c_noise noise,
//              and pinned where mask
//
// Every element depends on its own place alone, so `out` may be `x`.
#pragma once

#include "arithmetic.h"

namespace genpolicy {

constexpr int kMostOutputs = 16;

// Pointers to (n_rows, n) numbers, null for what is not there; `shift` has n, `seeds` n_rows.
template <class T>
struct StepArguments {
  int64_t n_rows, n, n_outputs;
  const T* x;
  const T* at;
  const T* outputs[kMostOutputs];
  const T* shift;
  const T* previous;
  const T* noise;
  const T* pinned;
  const bool* mask;
  const int64_t* seeds;  // the noise is drawn here; float alone
  uint32_t index;
  T on_x, c_x, c_denoised, c_previous, c_noise, lo, hi;
  T terms[kMostOutputs];
  T* out;
  T* denoised;
};

// The state after the step; what is added for an earlier evaluation.
template <class T>
GP_HD T stepped(const StepArguments<T>& a, T x, T denoised, T noise) {
  return a.c_x * x + a.c_denoised * limited(denoised, a.lo, a.hi) + a.c_noise * noise;
}

template <class T>
GP_HD T earlier(const StepArguments<T>& a, T previous) {
  return a.c_previous * limited(previous, a.lo, a.hi);
}

}  // namespace genpolicy
