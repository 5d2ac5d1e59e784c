/* Rates that this machine reaches, against which kernels are judged. */
#ifndef ZOE_PIPELINE_MEASURE_H
#define ZOE_PIPELINE_MEASURE_H

#include "backend/backend.h"

/*
 * GFLOP/s of a float32 matrix product, [rows, depth] x [cols, depth]^T, on the context's threads: OpenBLAS' or the own
 * one's, whichever is faster. OpenBLAS falls far behind on processors that it is too old to know.
 */
int zoe_measure_sgemm(zoe_context *ctx, int64_t rows, int64_t cols, int64_t depth, double *gflops);

/* GB/s (10^9 bytes, read and written) of copying memory that fits in no cache, on the context's threads. */
int zoe_measure_copy(zoe_context *ctx, double *gbytes);

/* Random numbers into a dense tensor, of which a part is drawn and the rest repeats it. */
int zoe_draw(zoe_backend *be, zoe_tensor *t);

/* A tensor [rows, cols] in the backend's memory, filled with random numbers; freed by zoe_backend_free(t->data). */
int zoe_random_tensor(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int64_t rows, int64_t cols);

/* GFLOP/s of a large product on a device, of weights in `form`: a float type, or int8 or fp8 with rows already quantised.
 */
int zoe_measure_product(zoe_backend *be, zoe_dtype form, double *gflops);

/* GB/s (10^9 bytes, read and written) of copying on a device. */
int zoe_measure_device_copy(zoe_backend *be, double *gbytes);

#endif
