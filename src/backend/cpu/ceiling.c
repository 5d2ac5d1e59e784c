/* What OpenBLAS reaches on this machine, to hold the own kernels against. */
#include "backend/cpu/cpu.h"

#include <cblas.h>

double zoe_cpu_sgemm_ceiling(zoe_context *ctx, int64_t m, int64_t n, int64_t k, double seconds) {
    size_t floats = (size_t)(m * k + n * k + m * n);
    float *memory = zoe_alloc(ctx, floats * sizeof *memory);
    if (!memory) return 0;
    for (size_t i = 0; i < floats; i++) memory[i] = (float)(i % 61) * 0.03125f - 1;
    float *a = memory, *b = a + m * k, *c = b + n * k;
    double best = 0, end = zoe_now() + seconds, start;
    do {
        start = zoe_now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)k, 1, a, (blasint)k, b,
                    (blasint)k, 0, c, (blasint)n);
        double rate = 2 * (double)m * (double)n * (double)k / (zoe_now() - start);
        if (rate > best) best = rate;
    } while (zoe_now() < end);
    zoe_free(ctx, memory);
    return best;
}
