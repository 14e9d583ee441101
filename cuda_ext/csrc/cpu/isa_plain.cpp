// The kernels for one instruction set; setup.py gives this file its own compiler flags.
#define GP_ISA isa_plain
#define GP_VECTOR_BYTES 16
#include "isa.h"

GP_KERNELS(kPlainKernels, "plain")
