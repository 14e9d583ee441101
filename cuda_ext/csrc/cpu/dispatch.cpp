// Chooses the kernels for the processor that runs, not the one that compiled.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace genpolicy {
namespace {

const Kernels* find() {
  const char* asked = std::getenv("GENPOLICY_ISA");
  const Kernels* best = &kPlainKernels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  const struct {
    const Kernels* kernels;
    bool runs;
  } all[] = {{&kPlainKernels, true},
             {&kAvx2Kernels, has_avx2},
             {&kAvx512Kernels, has_avx512},
             {&kAvx512Bf16Kernels, has_bf16}};
  for (const auto& one : all) {
    if (!one.runs) continue;
    best = one.kernels;
    if (asked && std::strcmp(asked, best->name) == 0) break;
  }
#else
  (void)asked;
#endif
  return best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = find();
  return *chosen;
}

}  // namespace genpolicy
