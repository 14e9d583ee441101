// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_avx512_bf16
#define GP_VECTOR_BYTES 64
#include "isa.h"

GP_KERNELS(kAvx512Bf16Kernels, "avx512_bf16")
