// Activations of rows, for one instruction set.
#pragma once

#include "../arithmetic.h"

namespace genpolicy {

// The floats that an activation works on at once: processors overlap those that follow each other.
namespace GP_ISA {
typedef float Part __attribute__((vector_size(64)));
typedef float LoosePart __attribute__((vector_size(64), aligned(4)));
typedef uint32_t UnsignedPart __attribute__((vector_size(64)));
typedef int32_t SignedPart __attribute__((vector_size(64)));
constexpr int64_t kPart = sizeof(Part) / sizeof(float);
}  // namespace GP_ISA

template <>
struct Bits<GP_ISA::Part> {
  typedef GP_ISA::UnsignedPart Unsigned;
  typedef GP_ISA::SignedPart Signed;
};

#if GP_VECTOR_BYTES == 64
// The processor's own estimate of 1 / x is right to 6e-5; a turn squares the error.
template <>
struct Inverse<GP_ISA::Part> {
  static GP_HD GP_ISA::Part of(GP_ISA::Part x) {
    GP_ISA::Part y;
    asm("vrcp14ps %1, %0" : "=v"(y) : "v"(x));
    return y + y * (1.0f - x * y);
  }
};
#endif

namespace GP_ISA {

// n floats of each row, a multiple of 16.
template <int64_t kKind>
void activate_rows(float* rows, int64_t ld, int64_t n_rows, int64_t n) {
  for (int64_t r = 0; r < n_rows; ++r)
    for (int64_t i = 0; i < n; i += kPart) {
      LoosePart* at = reinterpret_cast<LoosePart*>(rows + r * ld + i);
      *at = activated<kKind>(static_cast<Part>(*at));
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
