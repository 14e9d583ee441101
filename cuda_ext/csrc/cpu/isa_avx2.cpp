// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_avx2
#define GP_VECTOR_BYTES 32
#include "isa.h"

GP_KERNELS(kAvx2Kernels, "avx2")
