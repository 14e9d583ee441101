// Activations of rows, for one instruction set.
#pragma once

#include "../arithmetic.h"

namespace genpolicy {

// Several registers, worked on in turns: an activation is a chain of thirty instructions, of which a
// processor would otherwise hold too few in flight.
namespace GP_ISA {
constexpr int kRunBytes = GP_VECTOR_BYTES == 64 ? 256 : 64;
constexpr int64_t kRun = kRunBytes / 4;
typedef float Run __attribute__((vector_size(kRunBytes)));
typedef float LooseRun __attribute__((vector_size(kRunBytes), aligned(4)));
typedef uint32_t UnsignedRun __attribute__((vector_size(kRunBytes)));
typedef int32_t SignedRun __attribute__((vector_size(kRunBytes)));
}  // namespace GP_ISA

template <>
struct Bits<GP_ISA::Run> {
  typedef GP_ISA::UnsignedRun Unsigned;
  typedef GP_ISA::SignedRun Signed;
};

namespace GP_ISA {

// n floats of each row, a multiple of 16.
template <int64_t kKind>
void activate_rows(float* rows, int64_t ld, int64_t n_rows, int64_t n) {
  for (int64_t r = 0; r < n_rows; ++r) {
    float* row = rows + r * ld;
    int64_t i = 0;
    for (; i + kRun <= n; i += kRun) {
      LooseRun* at = reinterpret_cast<LooseRun*>(row + i);
      *at = activated<kKind>(static_cast<Run>(*at));
    }
#pragma omp simd
    for (int64_t j = i; j < n; ++j) row[j] = activated<kKind>(row[j]);
  }
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
