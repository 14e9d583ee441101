// A step of rows [begin, end) for one instruction set: every number is read and written once.
#pragma once

#include "../step.h"
#include "tile.h"

namespace genpolicy {
namespace GP_ISA {

constexpr int64_t kStepBlock = 256;

// A block's numbers: where they are, or, in the last block, copied beside zeros. Whole blocks are
// computed always, so that an element is rounded alike wherever it lies.
template <class T>
inline const T* whole_block(const T* from, int64_t first, int64_t count, T* space) {
  if (count == kStepBlock) return from + first;
  for (int64_t k = 0; k < kStepBlock; ++k) space[k] = k < count ? from[first + k] : T(0);
  return space;
}

template <class T>
void step_block(const StepArguments<T>& a, int64_t first, int64_t count, const T* fresh) {
  T space[kStepBlock], more[kStepBlock], denoised[kStepBlock], out[kStepBlock];
  if (a.at) {
    const T* at = whole_block(a.at, first, count, space);
#pragma omp simd
    for (int64_t k = 0; k < kStepBlock; ++k) denoised[k] = a.on_x * at[k];
  } else {
    for (int64_t k = 0; k < kStepBlock; ++k) denoised[k] = T(0);
  }
  if (a.shift) {
    int64_t place = first % a.n;
    for (int64_t k = 0; k < count; ++k, place = place + 1 == a.n ? 0 : place + 1)
      denoised[k] += a.shift[place];
  }
  for (int64_t i = 0; i < a.n_outputs; ++i) {
    const T* output = whole_block(a.outputs[i], first, count, space);
    const T term = a.terms[i];
#pragma omp simd
    for (int64_t k = 0; k < kStepBlock; ++k) denoised[k] += term * output[k];
  }
  const T* x = whole_block(a.x, first, count, space);
  const T* noise = fresh ? whole_block(fresh, 0, count, more) : nullptr;
  if (noise) {
#pragma omp simd
    for (int64_t k = 0; k < kStepBlock; ++k) out[k] = stepped(a, x[k], denoised[k], noise[k]);
  } else {
#pragma omp simd
    for (int64_t k = 0; k < kStepBlock; ++k) out[k] = stepped(a, x[k], denoised[k], T(0));
  }
  if (a.previous) {
    const T* previous = whole_block(a.previous, first, count, space);
#pragma omp simd
    for (int64_t k = 0; k < kStepBlock; ++k) out[k] += earlier(a, previous[k]);
  }
  if (a.mask)
    for (int64_t k = 0; k < count; ++k) out[k] = a.mask[first + k] ? a.pinned[first + k] : out[k];
  if (a.denoised) memcpy(a.denoised + first, denoised, sizeof(T) * count);
  memcpy(a.out + first, out, sizeof(T) * count);
}

// `floats` holds the noise of one row, or of as many rows as fit into a block.
template <class T>
void step_rows(const StepArguments<T>& a, int64_t begin, int64_t end, float* floats) {
  const int64_t most = a.n < kStepBlock ? kStepBlock / a.n : 1;
  for (int64_t row = begin; row < end;) {
    const int64_t rows = end - row < most ? end - row : most;
    const T* drawn = nullptr;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (a.seeds) {
        fill_noise(a.seeds + row, rows, a.n, a.index, 0u, floats, a.n);
        drawn = floats;
      }
    }
    const int64_t stop = (row + rows) * a.n;
    for (int64_t first = row * a.n; first < stop; first += kStepBlock) {
      const int64_t count = stop - first < kStepBlock ? stop - first : kStepBlock;
      const T* fresh = drawn ? drawn + (first - row * a.n) : a.noise ? a.noise + first : nullptr;
      step_block(a, first, count, fresh);
    }
    row += rows;
  }
}

}  // namespace GP_ISA
}  // namespace genpolicy
