/* The CUDA backend's object and what its files share. Operations go to one stream, in order; weights come on another. */
#ifndef ZOE_BACKEND_CUDA_CUDA_H
#define ZOE_BACKEND_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "backend/cuda/kernels.h"
#include "backend/device.h"
#include "backend/plugin.h"

#define ZOE_CUDA_BLAS_WORKSPACE ZOE_DEVICE_WORKSPACE

typedef struct zoe_cuda_plan zoe_cuda_plan;   /* a matrix product with its chosen algorithm */
typedef struct zoe_cuda_sdpa zoe_cuda_sdpa;   /* attention through cuDNN */
typedef unsigned long long zoe_cuda_physical; /* a piece of physical memory */

#define ZOE_CUDA_SLOTS 3

/* Page-locked memory through which the host's data goes to the device. */
typedef struct zoe_cuda_staging {
    char *memory; /* [ZOE_CUDA_SLOTS, slot size]; NULL until the first upload */
    int slot;     /* in use */
    size_t used;  /* of it */
    cudaEvent_t sent[ZOE_CUDA_SLOTS];
} zoe_cuda_staging;

/* A copy in two halves on a stream of its own, on its way through page-locked memory. */
typedef struct zoe_cuda_aside {
    cudaStream_t stream; /* NULL until the first copy */
    void *bounce, *host;
    size_t size, bytes; /* of the bounce buffer; on their way */
    cudaEvent_t asked, there;
} zoe_cuda_aside;

/* A place that copies fill: when its bytes have arrived, and when they may be overwritten. */
typedef struct zoe_cuda_place {
    cudaEvent_t arrived, released;
} zoe_cuda_place;

#define ZOE_CUDA_WAITS 64

/* From where the computation had nothing more to do to where it went on. */
typedef struct zoe_cuda_wait {
    cudaEvent_t begin, end;
} zoe_cuda_wait;

typedef struct zoe_cuda_copies {
    cudaStream_t stream; /* NULL until the first copy */
    zoe_cuda_place places[ZOE_COPY_PLACES];
    zoe_cuda_wait waits[ZOE_CUDA_WAITS];
    size_t told, counted; /* waits recorded, and added up */
    bool expecting;       /* one has begun */
} zoe_cuda_copies;

/* Events that note times, kept for the next time. */
typedef struct zoe_cuda_marks {
    cudaEvent_t *events;
    size_t used, count, capacity;
} zoe_cuda_marks;

typedef struct zoe_cuda {
    zoe_backend base;
    int device, level, processors;
    int shared_bytes; /* that a block may have */
    cudaStream_t stream;
    cublasLtHandle_t blas;
    void *blas_workspace;
    zoe_cuda_plan *plans;
    size_t plan_count, plan_capacity;
    zoe_cuda_sdpa *sdpa;
    zoe_pool pool;
    zoe_cuda_staging staging;
    zoe_cuda_aside lift, fetch; /* to the device, and back */
    zoe_cuda_copies copies;
    zoe_cuda_marks marks;
    size_t granularity;        /* of the arena's growth */
    zoe_cuda_physical *pieces; /* of the arena, each `granularity` bytes, from its base on */
    size_t piece_count, piece_capacity;
    int *flag; /* on the device */
} zoe_cuda;

static inline zoe_cuda *zoe_cuda_of(zoe_backend *be) {
    return (zoe_cuda *)(void *)be;
}

/* ---- failures ---- */

/* ZOE_OK, or the failure's text. */
int zoe_cuda_check(zoe_backend *be, cudaError_t error, const char *what);
int zoe_cuda_blas_check(zoe_backend *be, cublasStatus_t status, const char *what);
#define ZOE_CUDA(be, call) ZOE_TRY(zoe_cuda_check((be), (call), #call))

/* ---- times ---- */

int zoe_cuda_mark(zoe_backend *be);
int zoe_cuda_marks_take(zoe_backend *be, size_t count, double *seconds);
void zoe_cuda_marks_close(zoe_cuda *cuda);

/* ---- memory ---- */

int zoe_cuda_alloc(zoe_backend *be, size_t bytes, void **out);
void zoe_cuda_free(zoe_backend *be, void *ptr);
void zoe_cuda_pool_open(zoe_cuda *cuda);
int zoe_cuda_upload(zoe_backend *be, void *to, const void *host, size_t bytes);
int zoe_cuda_download(zoe_backend *be, void *host, const void *from, size_t bytes);
int zoe_cuda_upload_begin(zoe_backend *be, void *to, const void *host, size_t bytes);
int zoe_cuda_upload_end(zoe_backend *be);
int zoe_cuda_download_begin(zoe_backend *be, void *host, const void *from, size_t bytes, bool beside);
int zoe_cuda_download_end(zoe_backend *be);
void zoe_cuda_staging_close(zoe_cuda *cuda);
int zoe_cuda_arena_open(zoe_cuda *cuda, size_t total);
void zoe_cuda_arena_close(zoe_cuda *cuda);
int zoe_cuda_arena_grow(zoe_backend *be, size_t bytes);
void zoe_cuda_arena_trim(zoe_backend *be);

/* ---- copies beside the computation ---- */

int zoe_cuda_pinned_alloc(zoe_backend *be, size_t bytes, void **out);
void zoe_cuda_pinned_free(zoe_backend *be, void *ptr, size_t bytes);
int zoe_cuda_copy_begin(zoe_backend *be, int place, void *to, const void *host, size_t bytes);
int zoe_cuda_copy_expect(zoe_backend *be);
int zoe_cuda_copy_wait(zoe_backend *be, int place);
int zoe_cuda_copy_release(zoe_backend *be, int place);
int zoe_cuda_copy_end(zoe_backend *be, int place);
int zoe_cuda_copies_synchronize(zoe_cuda *cuda);
void zoe_cuda_copies_close(zoe_cuda *cuda);

/* ---- matrix products ---- */

/*
 * y[batch][rows, cols] = alpha x[batch][rows, depth] w[batch]^T + beta c[batch], row-major; w is [cols, depth] or, when
 * `straight`, [depth, cols]. Products of int8 are of int32; those of fp8 may be scaled by row and column, on Hopper.
 */
typedef struct zoe_cuda_product {
    int64_t rows, cols, depth, batch;
    int64_t ldx, ldw, ldy, ldc;     /* row strides */
    int64_t step_x, step_w, step_y; /* batch strides */
    zoe_dtype in, out;              /* of x and w; of y and c */
    int straight;
    int epilogue; /* cublasLtEpilogue_t */
    float alpha, beta;
    const float *row_scale, *col_scale; /* both or none */
} zoe_cuda_product;

/* ZOE_ERR_UNSUPPORTED where cuBLASLt cannot. */
int zoe_cuda_multiply(zoe_cuda *cuda, const zoe_cuda_product *p, void *y, const void *x, const void *w, const void *c,
                      const void *bias);
void zoe_cuda_plans_close(zoe_cuda *cuda);

/* ---- attention through cuDNN ---- */

/* *done: false where cuDNN cannot do it. */
int zoe_cuda_sdpa_run(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                      float scale, bool *done);
void zoe_cuda_sdpa_close(zoe_cuda *cuda);

/* ---- operations ---- */

/* linear with weights of a quantised form; rows that are quantised for it and wide results are kept on the arena. */
int zoe_cuda_linear_quantised(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p);
int zoe_cuda_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
int zoe_cuda_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p);
/* The bias in the result's type, as the epilogues take it; on the arena. */
int zoe_cuda_epilogue_bias(zoe_cuda *cuda, const zoe_tensor *y, const zoe_linear *p, const void **bias);
int zoe_cuda_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p);
int zoe_cuda_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p);
int zoe_cuda_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                       const zoe_attention *p);
int zoe_cuda_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p);
int zoe_cuda_group_norm_run(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p);
int zoe_cuda_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids);
int zoe_cuda_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
int zoe_cuda_zero(zoe_backend *be, zoe_tensor *y);
int zoe_cuda_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act);
int zoe_cuda_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                         const zoe_tensor *shift);
int zoe_cuda_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients);
int zoe_cuda_finite(zoe_backend *be, const zoe_tensor *x, bool *out);

/* Elements from row to row; axes of length one have strides without meaning. */
static inline int64_t zoe_cuda_row_stride(const zoe_tensor *t) {
    for (int i = t->rank - 2; i >= 0; i--)
        if (t->shape[i] != 1) return t->stride[i];
    return t->shape[t->rank - 1];
}

/* What follows a product, for `rows` rows of y; the sum is left to be filled in. */
zoe_cuda_finish zoe_cuda_finish_of(zoe_tensor *y, const zoe_linear *p, int64_t rows);

/* A tensor of one of the types that the kernels read and write. */
int zoe_cuda_need_float(zoe_backend *be, const char *op, const zoe_tensor *t);

#endif
