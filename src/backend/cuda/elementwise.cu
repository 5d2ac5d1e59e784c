/* Operations on each element alone: the strided walk, the end of a linear layer, checks. */
#include "backend/cuda/device.cuh"

#define THREADS 256

static unsigned blocks_for(int64_t work) {
    int64_t blocks = (work + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 1 ? 1 : blocks > 1 << 20 ? 1 << 20 : blocks);
}

/* ---- the strided walk ---- */

/* One element from up to OPERANDS - 1 others; x[0] is not used. */
template <int OPERANDS> __device__ __forceinline__ float combine(const zoe_cuda_walk &w, const float *x, int64_t channel) {
    if (w.mode == ZOE_CUDA_ZERO) return 0;
    float y = x[1];
    if (w.mode == ZOE_CUDA_ACTIVATE) {
        y = activation(x[1], w.act);
        if (w.operands > 2) y *= x[2];
    } else if (w.mode == ZOE_CUDA_SCALE_SHIFT) {
        if (w.scale) y *= w.scale[channel];
        if (w.shift) y += w.shift[channel];
    } else if (w.mode == ZOE_CUDA_LINCOMB) {
        y = w.coefficient[1] * x[1];
#pragma unroll
        for (int i = 2; i < OPERANDS; i++)
            if (i < w.operands) y += w.coefficient[i] * x[i];
    }
    return y;
}

/* Element `at`; by(axis, i): i by the length of an axis. */
template <typename I, typename DIVIDE> __device__ __forceinline__ void walk_one(const zoe_cuda_walk &w, I at, DIVIDE by) {
    int64_t offset[ZOE_CUDA_OPERANDS] = {0}, channel = 0;
#pragma unroll
    for (int axis = ZOE_MAX_RANK - 1; axis >= 0; axis--) {
        if (axis >= w.rank) continue;
        I rest = axis ? by(axis, at) : 0, index = axis ? at - rest * (I)w.shape[axis] : at;
        at = rest;
        if (axis == w.rank - 1) channel = index;
#pragma unroll
        for (int i = 0; i < ZOE_CUDA_OPERANDS; i++)
            if (i < w.operands) offset[i] += (int64_t)index * w.stride[i][axis];
    }
    float x[ZOE_CUDA_OPERANDS];
#pragma unroll
    for (int i = 1; i < ZOE_CUDA_OPERANDS; i++)
        if (i < w.operands) x[i] = load_any(w.data[i], w.type[i], offset[i]);
    store_any(w.data[0], w.type[0], offset[0], combine<ZOE_CUDA_OPERANDS>(w, x, channel));
}

__global__ void __launch_bounds__(THREADS) walk_kernel(zoe_cuda_walk w) {
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < w.count; at += (int64_t)gridDim.x * THREADS)
        walk_one<uint64_t>(w, (uint64_t)at, [&](int axis, uint64_t i) { return i / (uint64_t)w.shape[axis]; });
}

/* Fewer than 2^31 elements: divisions are most of the work. */
struct divisors {
    zoe_cuda_divisor of[ZOE_MAX_RANK];
};

__global__ void __launch_bounds__(THREADS) short_walk_kernel(zoe_cuda_walk w, divisors d) {
    for (uint32_t at = blockIdx.x * THREADS + threadIdx.x; at < (uint32_t)w.count; at += gridDim.x * THREADS)
        walk_one<uint32_t>(w, at, [&](int axis, uint32_t i) { return divide(i, d.of[axis]); });
}

static void launch_short_walk(const zoe_cuda_walk *w, cudaStream_t stream) {
    divisors d;
    for (int i = 0; i < w->rank; i++) d.of[i] = zoe_cuda_divisor_of(w->shape[i]);
    short_walk_kernel<<<blocks_for(w->count), THREADS, 0, stream>>>(*w, d);
}

#define FEW_OPERANDS 3

/* Rows of eight elements and more that are dense on the last axis, of one type: rank 1 or 2. */
template <typename T> __global__ void __launch_bounds__(THREADS) vector_walk_kernel(zoe_cuda_walk w) {
    unsigned width = (unsigned)(w.shape[w.rank - 1] / 8);
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < w.count / 8; at += (int64_t)gridDim.x * THREADS) {
        int64_t row = w.rank > 1 ? at / width : 0, column = (at - row * width) * 8;
        float x[FEW_OPERANDS][8], out[8];
#pragma unroll
        for (int i = 1; i < FEW_OPERANDS; i++)
            if (i < w.operands) load8(x[i], (const T *)w.data[i] + row * (w.rank > 1 ? w.stride[i][0] : 0) + column);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float one[FEW_OPERANDS] = {0, x[1][j], w.operands > 2 ? x[2][j] : 0};
            out[j] = combine<FEW_OPERANDS>(w, one, column + j);
        }
        store8((T *)w.data[0] + row * (w.rank > 1 ? w.stride[0][0] : 0) + column, out);
    }
}

static bool in_vectors(const zoe_cuda_walk *w) {
    int last = w->rank - 1;
    if (w->operands > FEW_OPERANDS || w->rank > 2 || w->shape[last] % 8 || w->shape[last] / 8 > INT32_MAX) return false;
    for (int i = 0; i < w->operands; i++)
        if (w->type[i] != w->type[0] || w->stride[i][last] != 1 || (last && w->stride[i][0] % 8) || !aligned16(w->data[i]))
            return false;
    return w->type[0] != ZOE_F16;
}

cudaError_t zoe_cuda_launch_walk(const zoe_cuda_walk *w, cudaStream_t stream) {
    if (w->count <= 0) return cudaSuccess;
    if (in_vectors(w) && w->type[0] == ZOE_BF16)
        vector_walk_kernel<bf16><<<blocks_for(w->count / 8), THREADS, 0, stream>>>(*w);
    else if (in_vectors(w))
        vector_walk_kernel<float><<<blocks_for(w->count / 8), THREADS, 0, stream>>>(*w);
    else if (w->count <= INT32_MAX)
        launch_short_walk(w, stream);
    else
        walk_kernel<<<blocks_for(w->count), THREADS, 0, stream>>>(*w);
    return cudaGetLastError();
}

/* ---- the end of a linear layer ---- */

/* The sum in S, all else in T. */
template <typename S, typename T> __global__ void __launch_bounds__(THREADS) finish_kernel(zoe_cuda_finish p) {
    int64_t width = p.cols / 8;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < p.rows * width;
         at += (int64_t)gridDim.x * THREADS) {
        int64_t row = at / width, column = at % width * 8;
        float v[8], a[8];
        load8(v, (const S *)p.sum + row * p.lds + column);
        if (p.row_scale) {
            float scale = p.row_scale[row];
            load8(a, p.col_scale + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] *= scale * a[j];
        }
        if (p.bias) {
            load8(a, p.bias + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] += a[j];
        }
        if (p.act != ZOE_CUDA_ACT_NONE) {
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = activation(v[j], p.act);
        }
        if (p.gate) {
            load8(a, p.gate + (p.group ? p.group[row] * p.ldg : 0) + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] *= a[j];
        }
        if (p.residual) {
            load8(a, (const T *)p.residual + row * p.ldr + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] += a[j];
        }
        store8((T *)p.y + row * p.ldy + column, v);
    }
}

__device__ __forceinline__ void finish_one(const zoe_cuda_finish &p, float sum, int64_t row, int64_t column) {
    if (p.row_scale) sum *= p.row_scale[row] * p.col_scale[column];
    if (p.bias) sum += p.bias[column];
    sum = activation(sum, p.act);
    if (p.gate) sum *= p.gate[(p.group ? p.group[row] * p.ldg : 0) + column];
    if (p.residual) sum += load_any(p.residual, p.residual_type, row * p.ldr + column);
    store_any(p.y, p.y_type, row * p.ldy + column, sum);
}

__device__ __forceinline__ float sum_at(const zoe_cuda_finish &p, int64_t at) {
    return p.sum_type == ZOE_I32 ? (float)((const int32_t *)p.sum)[at] : load_any(p.sum, p.sum_type, at);
}

__global__ void __launch_bounds__(THREADS) any_finish_kernel(zoe_cuda_finish p) {
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < p.rows * p.cols;
         at += (int64_t)gridDim.x * THREADS) {
        int64_t row = at / p.cols, column = at % p.cols;
        finish_one(p, sum_at(p, row * p.lds + column), row, column);
    }
}

cudaError_t zoe_cuda_launch_finish(const zoe_cuda_finish *p, cudaStream_t stream) {
    const void *pointers[] = {p->sum, p->residual, p->y, p->bias, p->gate, p->col_scale};
    bool narrow = p->y_type == ZOE_BF16, narrow_sum = p->sum_type == ZOE_BF16;
    bool known =
        (narrow || p->y_type == ZOE_F32) && (p->sum_type == ZOE_F32 || p->sum_type == ZOE_I32 || (narrow && narrow_sum));
    bool vectors = known && (!p->residual || p->residual_type == p->y_type) && p->cols % 8 == 0 && p->lds % 8 == 0 &&
                   p->ldr % 8 == 0 && p->ldy % 8 == 0 && p->ldg % 4 == 0;
    unsigned blocks = blocks_for(vectors ? p->rows * p->cols / 8 : p->rows * p->cols);
    for (int i = 0; i < 6; i++) vectors = vectors && aligned16(pointers[i]);
    if (p->rows * p->cols <= 0) return cudaSuccess;
    if (!vectors)
        any_finish_kernel<<<blocks, THREADS, 0, stream>>>(*p);
    else if (narrow_sum)
        finish_kernel<bf16, bf16><<<blocks, THREADS, 0, stream>>>(*p);
    else if (narrow && p->sum_type == ZOE_I32)
        finish_kernel<int32_t, bf16><<<blocks, THREADS, 0, stream>>>(*p);
    else if (p->sum_type == ZOE_I32)
        finish_kernel<int32_t, float><<<blocks, THREADS, 0, stream>>>(*p);
    else if (narrow)
        finish_kernel<float, bf16><<<blocks, THREADS, 0, stream>>>(*p);
    else
        finish_kernel<float, float><<<blocks, THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

/* ---- products of a few rows ---- */

#define FEW 8

/* A warp takes one column of the result for up to FEW rows. */
__global__ void __launch_bounds__(THREADS)
    few_rows_kernel(zoe_cuda_finish p, const void *x, int x_type, int64_t ldx, const void *w, int w_type, int64_t depth) {
    int64_t column = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, row0 = (int64_t)blockIdx.y * FEW;
    if (column >= p.cols) return;
    int lane = threadIdx.x % 32, rows = (int)(p.rows - row0 < FEW ? p.rows - row0 : FEW);
    float sum[FEW] = {0};
    for (int64_t k = lane; k < depth; k += 32) {
        float weight = load_any(w, w_type, column * depth + k);
#pragma unroll
        for (int i = 0; i < FEW; i++)
            if (i < rows) sum[i] += weight * load_any(x, x_type, (row0 + i) * ldx + k);
    }
#pragma unroll
    for (int i = 0; i < FEW; i++) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
        if (lane == i && i < rows) finish_one(p, sum[i], row0 + i, column);
    }
}

cudaError_t zoe_cuda_launch_few_rows(const zoe_cuda_finish *p, const void *x, int x_type, int64_t ldx, const void *w,
                                     int w_type, int64_t depth, cudaStream_t stream) {
    int64_t group = (int64_t)65535 * FEW; /* rows of a launch */
    for (int64_t row = 0; row < p->rows; row += group) {
        zoe_cuda_finish part = *p;
        size_t y_size = zoe_cuda_type_size(p->y_type), r_size = zoe_cuda_type_size(p->residual_type);
        part.rows = p->rows - row < group ? p->rows - row : group;
        part.y = (char *)p->y + (size_t)(row * p->ldy) * y_size;
        if (p->residual) part.residual = (const char *)p->residual + (size_t)(row * p->ldr) * r_size;
        if (p->group) part.group = p->group + row;
        dim3 grid((unsigned)((p->cols + THREADS / 32 - 1) / (THREADS / 32)), (unsigned)((part.rows + FEW - 1) / FEW));
        few_rows_kernel<<<grid, THREADS, 0, stream>>>(part,
                                                      (const char *)x + (size_t)(row * ldx) * zoe_cuda_type_size(x_type),
                                                      x_type, ldx, w, w_type, depth);
    }
    return cudaGetLastError();
}

/* ---- small ones ---- */

__global__ void __launch_bounds__(THREADS) to_bf16_kernel(bf16 *y, const float *x, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) y[i] = __float2bfloat16_rn(x[i]);
}

cudaError_t zoe_cuda_launch_to_bf16(void *y, const float *x, int64_t count, cudaStream_t stream) {
    to_bf16_kernel<<<blocks_for(count), THREADS, 0, stream>>>((bf16 *)y, x, count);
    return cudaGetLastError();
}

__global__ void __launch_bounds__(THREADS) fold_gate_kernel(float *scale_out, bf16 *bias_out, const float *scale,
                                                            const float *bias, const float *gate, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    scale_out[i] = scale[i] * gate[i];
    bias_out[i] = __float2bfloat16_rn(bias ? bias[i] * gate[i] : 0);
}

cudaError_t zoe_cuda_launch_fold_gate(float *scale_out, void *bias_out, const float *scale, const float *bias,
                                      const float *gate, int64_t count, cudaStream_t stream) {
    fold_gate_kernel<<<blocks_for(count), THREADS, 0, stream>>>(scale_out, (bf16 *)bias_out, scale, bias, gate, count);
    return cudaGetLastError();
}

/* A block takes a row of the weights. */
__global__ void __launch_bounds__(THREADS)
    gate_weights_kernel(bf16 *weights_out, bf16 *bias_out, const bf16 *weights, const float *bias, const float *gate,
                        int64_t cols) {
    int64_t row = blockIdx.x;
    float g = gate[row], v[8];
    for (int64_t i = threadIdx.x * 8; i < cols; i += THREADS * 8) {
        load8(v, weights + row * cols + i);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] *= g;
        store8(weights_out + row * cols + i, v);
    }
    if (threadIdx.x == 0) bias_out[row] = __float2bfloat16_rn(bias ? bias[row] * g : 0);
}

cudaError_t zoe_cuda_launch_gate_weights(void *weights_out, void *bias_out, const void *weights, const float *bias,
                                         const float *gate, int64_t rows, int64_t cols, cudaStream_t stream) {
    gate_weights_kernel<<<(unsigned)rows, THREADS, 0, stream>>>((bf16 *)weights_out, (bf16 *)bias_out,
                                                                (const bf16 *)weights, bias, gate, cols);
    return cudaGetLastError();
}

__global__ void __launch_bounds__(THREADS) finite_kernel(int *flag, const void *x, int type, int64_t count) {
    bool good = true;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS)
        good = good && isfinite(load_any(x, type, i));
    if (!good) *flag = 0;
}

cudaError_t zoe_cuda_launch_finite(int *flag, const void *x, int type, int64_t count, cudaStream_t stream) {
    finite_kernel<<<blocks_for((count + 7) / 8), THREADS, 0, stream>>>(flag, x, type, count);
    return cudaGetLastError();
}
