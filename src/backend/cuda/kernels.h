/* Launchers of the CUDA kernels, for the C files beside them. All take plain device pointers and queue on a stream. */
#ifndef ZOE_BACKEND_CUDA_KERNELS_H
#define ZOE_BACKEND_CUDA_KERNELS_H

#include <cuda_runtime.h>

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The values of zoe_act and zoe_norm_kind, whose header C++ cannot read. */
enum { ZOE_CUDA_ACT_NONE, ZOE_CUDA_ACT_SILU, ZOE_CUDA_ACT_GELU_TANH, ZOE_CUDA_ACT_GELU_ERF };
enum { ZOE_CUDA_NORM_LAYER, ZOE_CUDA_NORM_RMS, ZOE_CUDA_NORM_L2, ZOE_CUDA_NORM_NONE };

#define ZOE_CUDA_E4M3_MAX 448.0f

/* y = rotate(act(norm(x) * weight + bias) * (1 + scale) + shift)) on rows that are `parts` equal parts of a token each. */
typedef struct zoe_cuda_rows {
    const void *x;
    void *y;
    int x_type, y_type; /* zoe_dtype; y may be int8 or fp8 */
    float *y_scale;     /* [tokens], of int8 and fp8 */
    int64_t tokens, ldx, ldy;
    int parts, width; /* of a part */
    int kind, act;
    bool exact; /* int8 and fp8 as the CPU rounds them; otherwise a unit in the last place of the quotients is let go */
    float eps;
    const float *weight, *bias; /* [width] */
    const float *scale, *shift; /* [groups, width] */
    int64_t ld_scale, ld_shift;
    const int32_t *group;   /* [tokens] or NULL */
    const float *cos, *sin; /* [tokens, pairs] or NULL */
    int pairs;
} zoe_cuda_rows;
cudaError_t zoe_cuda_launch_rows(const zoe_cuda_rows *p, cudaStream_t stream);

/* y = residual + gate * act(row_scale * col_scale * sum + bias), row by row. */
typedef struct zoe_cuda_finish {
    const void *sum, *residual;
    void *y;
    int sum_type, residual_type, y_type;
    int64_t rows, cols, lds, ldr, ldy;
    const float *row_scale, *col_scale; /* both or none */
    const float *bias, *gate;
    int64_t ldg;
    const int32_t *group;
    int act;
} zoe_cuda_finish;
cudaError_t zoe_cuda_launch_finish(const zoe_cuda_finish *p, cudaStream_t stream);

/* The same with sum = x w^T, for a few rows: every weight is read once for eight rows of x. */
cudaError_t zoe_cuda_launch_few_rows(const zoe_cuda_finish *p, const void *x, int x_type, int64_t ldx, const void *w,
                                     int w_type, int64_t depth, cudaStream_t stream);

/* scale_out = scale * gate and, in bf16, bias_out = bias * gate; bias NULL: zeros. */
cudaError_t zoe_cuda_launch_fold_gate(float *scale_out, void *bias_out, const float *scale, const float *bias,
                                      const float *gate, int64_t count, cudaStream_t stream);

/* weights_out [rows, cols] and bias_out of bf16: those of before times a gate for each row. Depth in multiples of eight. */
cudaError_t zoe_cuda_launch_gate_weights(void *weights_out, void *bias_out, const void *weights, const float *bias,
                                         const float *gate, int64_t rows, int64_t cols, cudaStream_t stream);

/* A matrix of int4 or nvfp4 (backend/quantised.h): made from x, or widened to y of bf16 or f32. */
typedef struct zoe_cuda_four_bits {
    const void *x;
    void *data, *scales;
    float *global; /* of nvfp4 */
    int type, x_type, group;
    int64_t count; /* elements; whole groups */
} zoe_cuda_four_bits;
cudaError_t zoe_cuda_launch_four_bits(const zoe_cuda_four_bits *p, cudaStream_t stream);
cudaError_t zoe_cuda_launch_widen_four_bits(void *y, int y_type, const zoe_cuda_four_bits *p, cudaStream_t stream);

/* Codes of int8 or fp8 as bf16, without their scales; in multiples of 16. */
cudaError_t zoe_cuda_launch_widen(void *y, const void *x, int type, int64_t count, cudaStream_t stream);

cudaError_t zoe_cuda_launch_to_bf16(void *y, const float *x, int64_t count, cudaStream_t stream);

/* y[n, width] = table[ids[n], width]; a row of NaN for an id outside the table. */
cudaError_t zoe_cuda_launch_embedding(void *y, int y_type, int64_t ldy, const void *table, int table_type, int64_t entries,
                                      int64_t width, const int32_t *ids, int64_t step, int64_t count, cudaStream_t stream);

/* *flag = 0 where an element is NaN or infinite; *flag must be 1 before. */
cudaError_t zoe_cuda_launch_finite(int *flag, const void *x, int type, int64_t count, cudaStream_t stream);

/* Elementwise, operand 0 is written. */
#define ZOE_CUDA_OPERANDS 9
enum { ZOE_CUDA_COPY, ZOE_CUDA_ZERO, ZOE_CUDA_ACTIVATE, ZOE_CUDA_SCALE_SHIFT, ZOE_CUDA_LINCOMB };
typedef struct zoe_cuda_walk {
    int mode, operands, rank, act;
    int64_t count, shape[ZOE_MAX_RANK], stride[ZOE_CUDA_OPERANDS][ZOE_MAX_RANK];
    void *data[ZOE_CUDA_OPERANDS];
    int type[ZOE_CUDA_OPERANDS];
    float coefficient[ZOE_CUDA_OPERANDS]; /* of operand i in place i */
    const float *scale, *shift;           /* by the index on the last axis */
} zoe_cuda_walk;
cudaError_t zoe_cuda_launch_walk(const zoe_cuda_walk *w, cudaStream_t stream);

/* y = act((norm(x) * weight + bias) * scale + shift), the norm over all rows and a group of channels. */
#define ZOE_CUDA_GROUP_PARTS 256
typedef struct zoe_cuda_group_norm {
    const void *x, *scale, *shift;
    void *y;
    int type;     /* of all four */
    int64_t rows; /* frames * height * width */
    int frames, height, width, channels, groups;
    float eps;
    const float *weight, *bias;
    int map[3], first_apart; /* frames, height and width of scale and shift */
    int act;
} zoe_cuda_group_norm;
/* sums [ZOE_CUDA_GROUP_PARTS, 2, channels] and affine [3, channels] are scratch. */
cudaError_t zoe_cuda_launch_group_norm(const zoe_cuda_group_norm *p, double *sums, float *affine, cudaStream_t stream);

/* p = softmax(scores + bias) by rows of keys. */
typedef struct zoe_cuda_softmax {
    const float *scores; /* [heads, queries, ld], of which `keys` count */
    void *p;             /* as scores */
    int p_type;
    int64_t heads, queries, keys, ld;
    const float *bias;              /* [heads, bias_width] by key - query + offset, or NULL */
    int64_t bias_width, bias_start; /* index for key 0 and the first query */
    float last;                     /* added to the last key's score */
} zoe_cuda_softmax;
cudaError_t zoe_cuda_launch_softmax(const zoe_cuda_softmax *p, cudaStream_t stream);

/* Attention of bf16 with heads of 64 or 128 channels on mma.sync; rows and heads by strides in elements. */
typedef struct zoe_cuda_flash {
    const void *q, *k, *v;
    void *y;
    int64_t q_head, q_row, k_head, k_row, v_head, v_row, y_head, y_row;
    int heads, queries, keys, dim;
    float scale, last; /* `last` is added to the last key's scaled score */
} zoe_cuda_flash;
cudaError_t zoe_cuda_launch_flash(const zoe_cuda_flash *p, cudaStream_t stream);
/* On wgmma: compute capability 9.0 only. */
cudaError_t zoe_cuda_launch_flash_hopper(const zoe_cuda_flash *p, cudaStream_t stream);

/* The same for a few keys, which stay in shared memory, or for two sets of them, whose results are added up. The sets
 * differ in k, v, keys and `last` alone. */
#define ZOE_CUDA_KEY_SETS 2
bool zoe_cuda_flash_few_fits(const zoe_cuda_flash *p, int count, int shared_bytes);
cudaError_t zoe_cuda_launch_flash_few(const zoe_cuda_flash *p, int count, int processors, cudaStream_t stream);

/* The same, but for `last`, through int8 and e4m3, for many keys; over the device's `memory` that zoe_sage_lay_out() asks
 * for, with values of two bytes below level 89. */
cudaError_t zoe_cuda_launch_sage(const zoe_cuda_flash *p, void *memory, int level, cudaStream_t stream);

/* Convolution, channels last. */
typedef struct zoe_cuda_convolution {
    const void *x, *w, *history, *residual;
    void *y;
    const float *bias;
    int64_t history_stride;     /* elements from frame to frame */
    int64_t residual_stride[3]; /* from frame to frame, line to line, pixel to pixel */
    int type, w_type;           /* of everything but bias and w; of w */
    int before, frames, height, width, in;
    int out_frames, out_height, out_width, out;
    int kernel[3], stride[3], pad[3]; /* pad: in front */
    int upsample;
} zoe_cuda_convolution;
cudaError_t zoe_cuda_launch_conv(const zoe_cuda_convolution *p, int level, cudaStream_t stream);
/* On wgmma: bf16 with input channels in multiples of eight, on compute capability 9.0 only. */
cudaError_t zoe_cuda_launch_conv_hopper(const zoe_cuda_convolution *p, cudaStream_t stream);
/* The same by boxes of pixels, where they fit: the faster way. */
bool zoe_cuda_conv_in_boxes(const zoe_cuda_convolution *p);
cudaError_t zoe_cuda_launch_conv_boxes(const zoe_cuda_convolution *p, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
