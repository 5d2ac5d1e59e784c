/* Rates that this machine reaches, against which kernels are judged. */
#ifndef ZOE_PIPELINE_MEASURE_H
#define ZOE_PIPELINE_MEASURE_H

#include "base/context.h"

/*
 * GFLOP/s of a float32 matrix product, [rows, depth] x [cols, depth]^T, on the context's threads: OpenBLAS' or the own
 * one's, whichever is faster. OpenBLAS falls far behind on processors that it is too old to know.
 */
int zoe_measure_sgemm(zoe_context *ctx, int64_t rows, int64_t cols, int64_t depth, double *gflops);

/* GB/s (10^9 bytes, read and written) of copying memory that fits in no cache, on the context's threads. */
int zoe_measure_copy(zoe_context *ctx, double *gbytes);

#endif
