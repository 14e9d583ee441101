// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_avx512_bf16
#define GP_VECTOR_BYTES 64
#include "peak.h"
#include "step.h"
#include "tile.h"

namespace genpolicy {
const Kernels kAvx512Bf16Kernels = {"avx512_bf16",
    isa_avx512_bf16::sample_rows, isa_avx512_bf16::fill_noise,
    isa_avx512_bf16::step_rows<float>, isa_avx512_bf16::step_rows<double>,
    isa_avx512_bf16::peak_gflops, isa_avx512_bf16::read_gbytes};
}
