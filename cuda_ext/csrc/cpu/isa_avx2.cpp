// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_avx2
#define GP_VECTOR_BYTES 32
#include "peak.h"
#include "step.h"
#include "tile.h"

namespace genpolicy {
const Kernels kAvx2Kernels = {"avx2",
    isa_avx2::sample_rows, isa_avx2::fill_noise,
    isa_avx2::step_rows<float>, isa_avx2::step_rows<double>,
    isa_avx2::peak_gflops, isa_avx2::read_gbytes};
}
