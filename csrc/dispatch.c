/* Asks the CPU which levels it has, honours FASTGATE_ISA, hands out a table. No math. */
#include <stdlib.h>
#include <string.h>

#include "fastgate.h"

const char *const fg_cell_names[FG_CELLS] = {
#define FG_CELL(name) #name,
#include "cells.def"
#undef FG_CELL
};

#if defined(__x86_64__)
extern const fg_kernels fg_kernels_f32_avx512, fg_kernels_f64_avx512, fg_kernels_f32_avx2, fg_kernels_f64_avx2;
#endif
extern const fg_kernels fg_kernels_f32_baseline, fg_kernels_f64_baseline;

struct level {
    const fg_kernels *kernels[FG_DTYPES];
    int on_this_cpu;
};

/* Best first. __builtin_cpu_supports also asks the operating system whether it saves the wide registers. */
static int list_levels(struct level levels[4])
{
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    levels[n++] = (struct level){ { &fg_kernels_f32_avx512, &fg_kernels_f64_avx512 },
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512bw") };
    levels[n++] = (struct level){ { &fg_kernels_f32_avx2, &fg_kernels_f64_avx2 },
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") };
#endif
    levels[n++] = (struct level){ { &fg_kernels_f32_baseline, &fg_kernels_f64_baseline }, 1 };

    int have = 0;
    for (int i = 0; i < n; i++)
        if (levels[i].on_this_cpu)
            levels[have++] = levels[i];
    return have;
}

const char *fg_isa_level(int i)
{
    struct level levels[4];
    return i >= 0 && i < list_levels(levels) ? levels[i].kernels[FG_F32]->isa : NULL;
}

const fg_kernels *fg_get_kernels(enum fg_dtype dtype)
{
    struct level levels[4];
    const int have = list_levels(levels);
    const char *wanted = getenv("FASTGATE_ISA");

    if (wanted == NULL || *wanted == '\0')
        return levels[0].kernels[dtype];
    for (int i = 0; i < have; i++)
        if (strcmp(wanted, levels[i].kernels[FG_F32]->isa) == 0)
            return levels[i].kernels[dtype];
    return NULL;
}
