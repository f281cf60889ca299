/* AVX-512 F, DQ, VL, BW; float. */
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__) || !defined(__AVX512BW__)
#  error "this file needs the compiler flags of the level `avx512` in setup.py"
#endif
#define ISA avx512
#define DTYPE 32
#include "kernels.inc"
