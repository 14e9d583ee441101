// Chooses the kernels for the processor that runs, not the one that compiled.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace genpolicy {
namespace {

struct Choice {
  const Kernels* kernels;
  bool runs;
  bool wins;  // over those before it, where both run
};

#if defined(__x86_64__)

// Whether there is a matrix unit for bfloat16, and the system lets this process use it: its registers
// are large, so Linux saves them only for processes that have asked (once, for all threads).
bool may_use_matrix_unit() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const unsigned needed = 1u << 22 | 1u << 24;  // AMX-BF16 and AMX-TILE
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & needed) != needed) return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of <asm/prctl.h> from Linux 5.16 on
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// AMD's cores make a product of pairs of bfloat16 at the rate of other multiply-adds. Intel's (measured
// on Sapphire Rapids) take three times as long for it, more than for two multiply-adds in float32.
bool has_fast_pairs() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) != 0 && b != 0x756E6547u;  // "Genu" of GenuineIntel
}

#endif

constexpr int kMostKernels = 5;

// All kernels, the best that runs last.
const Choice* choices() {
  static const struct All {
    Choice all[kMostKernels] = {{&kPlainKernels, true, true}};
    All() {
#if defined(__x86_64__)
      __builtin_cpu_init();
      const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
      const bool has_avx512 =
          has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
      const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
      all[1] = {&kAvx2Kernels, has_avx2, true};
      all[2] = {&kAvx512Kernels, has_avx512, true};
      all[3] = {&kAvx512Bf16Kernels, has_bf16, has_fast_pairs()};
      all[4] = {&kAmxBf16Kernels, has_bf16 && may_use_matrix_unit(), true};
#endif
    }
  } found;
  return found.all;
}

const Kernels* find() {
  const char* asked = std::getenv("GENPOLICY_ISA");
  const Kernels* best = &kPlainKernels;
  for (int i = 0; i < kMostKernels; ++i) {
    const Choice& one = choices()[i];
    if (!one.runs) continue;
    if (asked && std::strcmp(asked, one.kernels->name) == 0) return one.kernels;
    if (one.wins) best = one.kernels;
  }
  return best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = find();
  return *chosen;
}

const char* runnable_kernels() {
  static const struct Names {
    char text[64] = {};
    Names() {
      for (int i = 0; i < kMostKernels; ++i) {
        if (!choices()[i].runs) continue;
        if (text[0]) std::strcat(text, " ");
        std::strcat(text, choices()[i].kernels->name);
      }
    }
  } names;
  return names.text;
}

}  // namespace genpolicy
