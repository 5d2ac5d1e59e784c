#include "pipeline/measure.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "backend/quantised.h"
#include "weights/convert.h"
#include "weights/quantise.h"

/* Repetitions stop after some time too, for large products on slow machines. */
enum { REPEATS = 5 };
static const double enough = 1.0;

/* The context's threads, for the parallel regions of this thread; returns the number before. */
static int use_threads(const zoe_context *ctx) {
    int before = omp_get_max_threads();
    if (ctx->settings.threads > 0) omp_set_num_threads(ctx->settings.threads);
    return before;
}

typedef struct product {
    int64_t rows, cols, depth;
    float *x, *w, *y; /* [rows, depth], [cols, depth], [rows, cols] */
    zoe_backend *be;
} product;

static int run_openblas(product *p) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)p->rows, (blasint)p->cols, (blasint)p->depth, 1, p->x,
                (blasint)p->depth, p->w, (blasint)p->depth, 0, p->y, (blasint)p->cols);
    return ZOE_OK;
}

static int run_own(product *p) {
    zoe_tensor x = ZOE_TENSOR(p->x, ZOE_F32, p->rows, p->depth), w = ZOE_TENSOR(p->w, ZOE_F32, p->cols, p->depth);
    zoe_tensor y = ZOE_TENSOR(p->y, ZOE_F32, p->rows, p->cols);
    return zoe_op_linear(p->be, &y, &x, &w, NULL);
}

/* Lowers *best to the shortest time of one product; the first run warms up. */
static int time_product(product *p, int (*run)(product *p), double *best) {
    double end = zoe_now() + enough;
    for (int i = 0; i <= REPEATS && (i < 2 || zoe_now() < end); i++) {
        double start = zoe_now();
        ZOE_TRY(run(p));
        double seconds = zoe_now() - start;
        if (i > 0 && seconds < *best) *best = seconds;
    }
    return ZOE_OK;
}

int zoe_measure_sgemm(zoe_context *ctx, int64_t rows, int64_t cols, int64_t depth, double *gflops) {
    product p = {.rows = rows, .cols = cols, .depth = depth};
    size_t x_count = (size_t)(rows * depth), w_count = (size_t)(cols * depth), y_count = (size_t)(rows * cols);
    float *memory = zoe_alloc(ctx, (x_count + w_count + y_count) * sizeof *memory);
    if (!memory) return zoe_out_of_memory(ctx, (x_count + w_count + y_count) * sizeof *memory, "matrix product");
    for (size_t i = 0; i < x_count + w_count; i++) memory[i] = (float)(i % 251) * 0.01f - 1;
    p.x = memory, p.w = memory + x_count, p.y = p.w + w_count;
    memset(p.y, 0, y_count * sizeof *p.y);

    int threads = use_threads(ctx);
    double best = INFINITY;
    int status = zoe_cpu_backend_create(ctx, 0, &p.be);
    if (status == ZOE_OK) status = time_product(&p, run_openblas, &best);
    if (status == ZOE_OK) status = time_product(&p, run_own, &best);
    zoe_backend_close(p.be);
    omp_set_num_threads(threads);
    zoe_free(ctx, memory);
    *gflops = 2e-9 * (double)rows * (double)cols * (double)depth / best;
    return status;
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

/* ---- on a device ---- */

int zoe_draw(zoe_backend *be, zoe_tensor *t) {
    int64_t count = zoe_tensor_count(t), drawn = count < (1 << 20) ? count : 1 << 20;
    size_t bytes = (size_t)drawn * zoe_dtype_size(t->dtype);
    void *host = zoe_alloc(be->ctx, bytes);
    if (!host) return zoe_out_of_memory(be->ctx, bytes, "random data");
    zoe_random_fill(host, t->dtype, drawn, 1, 0, 1);
    int status = ZOE_OK;
    zoe_tensor flat = ZOE_VIEW(t, count);
    for (int64_t at = 0; at < count && status == ZOE_OK; at += drawn) {
        zoe_tensor part = zoe_view_slice(&flat, 0, at, count - at < drawn ? count - at : drawn);
        status = zoe_upload(be, &part, host);
    }
    zoe_free(be->ctx, host);
    return status;
}

int zoe_random_tensor(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int64_t rows, int64_t cols) {
    ZOE_TRY(zoe_backend_alloc(be, t, dtype, 2, (const int64_t[]){rows, cols}));
    return zoe_draw(be, t);
}

/* The best of some rounds of IN_A_ROW runs, in seconds for one; the first round warms up. */
static int time_rounds(zoe_backend *be,
                       int (*run)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w), zoe_tensor *y,
                       const zoe_tensor *x, const zoe_tensor *w, double *best) {
    enum { IN_A_ROW = 8 };
    *best = INFINITY;
    for (int i = 0; i <= REPEATS; i++) {
        double start = zoe_now();
        for (int j = 0; j < IN_A_ROW; j++) ZOE_TRY(run(be, y, x, w));
        ZOE_TRY(zoe_synchronize(be));
        double seconds = (zoe_now() - start) / IN_A_ROW;
        if (i > 0 && seconds < *best) *best = seconds;
    }
    return ZOE_OK;
}

static int run_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w) {
    return zoe_op_linear(be, y, x, w, NULL);
}

static int run_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w) {
    (void)w;
    return zoe_op_copy(be, y, x);
}

int zoe_measure_product(zoe_backend *be, zoe_dtype form, double *gflops) {
    enum { SIDE = 8192 };
    zoe_tensor x = {0}, w = {0}, y = {0};
    double best;
    int status;
    ZOE_TRY_DONE(zoe_random_tensor(be, &x, be->dtype, SIDE, SIDE));
    ZOE_TRY_DONE(zoe_random_tensor(be, &w, be->dtype, SIDE, SIDE));
    ZOE_TRY_DONE(zoe_random_tensor(be, &y, be->dtype, SIDE, SIDE));
    if (form != be->dtype) {
        ZOE_TRY_DONE(zoe_form_narrow(be, &x, form));
        ZOE_TRY_DONE(zoe_form_narrow(be, &w, form));
    }
    ZOE_TRY_DONE(time_rounds(be, run_linear, &y, &x, &w, &best));
    *gflops = 2e-9 * SIDE * SIDE * SIDE / best;
done:
    zoe_backend_free(be, x.data);
    zoe_backend_free(be, w.data);
    zoe_backend_free(be, y.data);
    return status;
}

int zoe_measure_device_copy(zoe_backend *be, double *gbytes) {
    zoe_tensor x = {0}, y = {0};
    double best;
    int status;
    ZOE_TRY_DONE(zoe_random_tensor(be, &x, ZOE_BF16, 16384, 16384));
    ZOE_TRY_DONE(zoe_random_tensor(be, &y, ZOE_BF16, 16384, 16384));
    ZOE_TRY_DONE(time_rounds(be, run_copy, &y, &x, NULL, &best));
    *gbytes = 2e-9 * (double)zoe_tensor_bytes(&x) / best;
done:
    zoe_backend_free(be, x.data);
    zoe_backend_free(be, y.data);
    return status;
}
