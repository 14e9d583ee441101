// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_avx512
#define GP_VECTOR_BYTES 64
#include "peak.h"
#include "step.h"
#include "tile.h"

namespace genpolicy {
const Kernels kAvx512Kernels = {"avx512",
    isa_avx512::sample_rows, isa_avx512::fill_noise,
    isa_avx512::step_rows<float>, isa_avx512::step_rows<double>,
    isa_avx512::peak_gflops, isa_avx512::read_gbytes};
}
