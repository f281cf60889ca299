/* What every CPU of the architecture has: SSE2 on x86-64, NEON on arm64; double. */
#if defined(__AVX2__)
#  error "this file needs the compiler flags of the level `baseline` in setup.py"
#endif
#define ISA baseline
#define DTYPE 64
#include "kernels.inc"
