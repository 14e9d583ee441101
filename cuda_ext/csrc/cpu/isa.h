// Everything that is compiled once per instruction set, and the table that names it.
#pragma once

#include "peak.h"
#include "step.h"
#include "tile.h"

#define GP_KERNELS(table, name)                                                                  \
  namespace genpolicy {                                                                          \
  const Kernels table = {name,                         GP_ISA::kHasMatrixUnit,                   \
                         GP_ISA::kGroup,               GP_ISA::kGroupBf16,                       \
                         GP_ISA::sample_rows,          GP_ISA::fill_noise,                       \
                         GP_ISA::step_rows<float>,     GP_ISA::step_rows<double>,                \
                         GP_ISA::multiply_adds,        GP_ISA::peak_gflops,                      \
                         GP_ISA::read_gbytes};                                                   \
  }
