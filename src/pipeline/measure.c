#include "pipeline/measure.h"

#include <cblas.h>
#include <omp.h>
#include <string.h>

/* Repetitions stop after some time too, for large products on slow machines. */
enum { REPEATS = 5 };
static const double enough = 1.0;

/* The context's threads, for the parallel regions of this thread; returns the number before. */
static int use_threads(const zoe_context *ctx) {
    int before = omp_get_max_threads();
    if (ctx->settings.threads > 0) omp_set_num_threads(ctx->settings.threads);
    return before;
}

int zoe_measure_sgemm(zoe_context *ctx, int64_t rows, int64_t cols, int64_t depth, double *gflops) {
    size_t x_count = (size_t)(rows * depth), w_count = (size_t)(cols * depth), y_count = (size_t)(rows * cols);
    float *memory = zoe_alloc(ctx, (x_count + w_count + y_count) * sizeof *memory);
    if (!memory) return zoe_out_of_memory(ctx, (x_count + w_count + y_count) * sizeof *memory, "matrix product");
    float *x = memory, *w = x + x_count, *y = w + w_count;
    for (size_t i = 0; i < x_count + w_count; i++) memory[i] = (float)(i % 251) * 0.01f - 1;
    memset(y, 0, y_count * sizeof *y);

    int threads = use_threads(ctx);
    double best = 0, end = zoe_now() + enough;
    for (int i = 0; i <= REPEATS && (i < 2 || zoe_now() < end); i++) { /* the first one warms up */
        double start = zoe_now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)cols, (blasint)depth, 1, x,
                    (blasint)depth, w, (blasint)depth, 0, y, (blasint)cols);
        double seconds = zoe_now() - start;
        if (i == 1 || (i > 1 && seconds < best)) best = seconds;
    }
    omp_set_num_threads(threads);
    zoe_free(ctx, memory);
    *gflops = 2e-9 * (double)rows * (double)cols * (double)depth / best;
    return ZOE_OK;
}

int zoe_measure_copy(zoe_context *ctx, double *gbytes) {
    enum { PART = 1 << 20, PARTS = 256 };
    char *memory = zoe_alloc(ctx, 2 * (size_t)PART * PARTS);
    if (!memory) return zoe_out_of_memory(ctx, 2 * (size_t)PART * PARTS, "copying memory");
    char *from = memory, *to = memory + (size_t)PART * PARTS;
    memset(memory, 1, 2 * (size_t)PART * PARTS);

    int threads = use_threads(ctx);
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        double start = zoe_now();
#pragma omp parallel for schedule(static)
        for (int part = 0; part < PARTS; part++) memcpy(to + (size_t)part * PART, from + (size_t)part * PART, PART);
        double seconds = zoe_now() - start;
        if (i == 0 || seconds < best) best = seconds;
    }
    omp_set_num_threads(threads);
    zoe_free(ctx, memory);
    *gbytes = 2e-9 * (double)PART * PARTS / best;
    return ZOE_OK;
}
