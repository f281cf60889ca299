/* AVX2 with FMA; float. */
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#  error "this file needs the compiler flags of the level `avx2` in setup.py"
#endif
#define ISA avx2
#define DTYPE 32
#include "kernels.inc"
