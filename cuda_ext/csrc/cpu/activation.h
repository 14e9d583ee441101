// Activations of rows, for one instruction set.
#pragma once

#include "../arithmetic.h"

namespace genpolicy {
namespace GP_ISA {

template <int64_t kKind>
inline void activate_row(float* row, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) row[i] = activated<kKind>(row[i]);
}

template <int64_t kKind>
void activate_rows(float* rows, int64_t ld, int64_t n_rows, int64_t n) {
  for (int64_t r = 0; r < n_rows; ++r) activate_row<kKind>(rows + r * ld, n);
}

inline void activate(int64_t kind, float* rows, int64_t ld, int64_t n_rows, int64_t n) {
  switch (kind) {
    case kMish: activate_rows<kMish>(rows, ld, n_rows, n); break;
    case kSilu: activate_rows<kSilu>(rows, ld, n_rows, n); break;
    case kRelu: activate_rows<kRelu>(rows, ld, n_rows, n); break;
    case kGelu: activate_rows<kGelu>(rows, ld, n_rows, n); break;
  }
}

}  // namespace GP_ISA
}  // namespace genpolicy
