// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_plain
#define GP_VECTOR_BYTES 16
#include "peak.h"
#include "step.h"
#include "tile.h"

namespace genpolicy {
const Kernels kPlainKernels = {"plain",
    isa_plain::sample_rows, isa_plain::fill_noise,
    isa_plain::step_rows<float>, isa_plain::step_rows<double>,
    isa_plain::peak_gflops, isa_plain::read_gbytes};
}
