// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_amx_bf16
#define GP_VECTOR_BYTES 64
#define GP_MATRIX_UNIT
#include "isa.h"

GP_KERNELS(kAmxBf16Kernels, "amx_bf16")
