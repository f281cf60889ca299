/* What one core can do: multiply-adds that wait for nothing, and reads that do nothing else. machine.py compiles and times it.

   REAL  float or double, the dtype of the multiply-adds
   The vectors are the widest of the CPU that it is compiled for. */
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#if defined(__AVX512F__) || defined(__aarch64__) /* thirty-two registers, up to four pipes of four cycles */
#define CHAINS 24
#else
#define CHAINS 12
#endif

typedef REAL reals __attribute__((vector_size(WIDTH)));
typedef uint64_t words __attribute__((vector_size(WIDTH)));

/* Operations done in `repeats` rounds. Every chain runs towards a fixed point: never infinite, never subnormal. */
double fma_operations(long repeats) {
    reals chain[CHAINS], factor = {0}, term = {0};
    factor += (REAL)0.5, term += (REAL)0.75;
    __asm__ volatile("" : "+m"(factor), "+m"(term)); /* not known when compiling */
    reals m = factor, a = term;
    for (int k = 0; k < CHAINS; k++) chain[k] = a + (REAL)k;
    for (long r = 0; r < repeats; r++)
#pragma GCC unroll 24
        for (int k = 0; k < CHAINS; k++) chain[k] = chain[k] * m + a;
    for (int k = 0; k < CHAINS; k++) __asm__ volatile("" : : "m"(chain[k]));
    return 2.0 * CHAINS * (sizeof(reals) / sizeof(REAL)) * (double)repeats;
}

/* Reads `size` bytes, a multiple of eight vectors, `repeats` times; the value only keeps the reads alive. */
uint64_t read_bytes(const words *from, size_t size, long repeats) {
    words sum[8] = {{0}}, all = {0};
    for (long r = 0; r < repeats; r++) {
        for (size_t v = 0; v < size / WIDTH; v += 8)
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) sum[k] ^= from[v + k];
        __asm__ volatile("" : : : "memory");
    }
    for (int k = 0; k < 8; k++) all ^= sum[k];
    return all[0];
}
