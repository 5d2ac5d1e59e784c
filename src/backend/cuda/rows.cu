/* Norms, preparation of queries and keys, embeddings: kernels in which a group of threads takes a row. */
#include "backend/cuda/device.cuh"

#define THREADS 256
#define HEADS   4 /* of a token that are prepared together */

/* ---- norm and rotation ---- */

/* (x - mean) * factor */
template <int LANES>
__device__ __forceinline__ void finish_statistics(const zoe_cuda_rows &p, float squares, float *factor) {
    squares = group_sum<LANES>(squares);
    if (p.kind == ZOE_CUDA_NORM_L2)
        *factor = sqrtf((float)p.width) / fmaxf(sqrtf(squares), p.eps);
    else
        *factor = 1.0f / sqrtf(squares / (float)p.width + p.eps);
}

/* Eight elements of a row of int8 or fp8. */
__device__ __forceinline__ void store8_narrow(void *y, int64_t at, const float *x, narrow_scale s, int type, bool exact) {
    uint32_t words[4];
    if (exact) {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = to_narrow(x[2 * i], x[2 * i + 1], s, type);
    } else if (type == ZOE_I8) {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = to_narrow_fast(x[2 * i], x[2 * i + 1], s, ZOE_I8);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = to_narrow_fast(x[2 * i], x[2 * i + 1], s, ZOE_F8_E4M3);
    }
    *(uint2 *)((uint8_t *)y + at) = make_uint2(words[0] | words[1] << 16, words[2] | words[3] << 16);
}

/* Rotates four pairs from number `pair` of the table on. */
__device__ __forceinline__ void rotate8(const zoe_cuda_rows &p, float *v, int64_t token, int pair) {
    const float *cos = p.cos + token * p.pairs, *sin = p.sin + token * p.pairs;
    float c[4], s[4];
    if (p.pairs % 4 == 0) { /* four pairs lie together */
        float4 all = *(const float4 *)(cos + pair);
        c[0] = all.x, c[1] = all.y, c[2] = all.z, c[3] = all.w;
        all = *(const float4 *)(sin + pair);
        s[0] = all.x, s[1] = all.y, s[2] = all.z, s[3] = all.w;
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            c[j] = cos[pair], s[j] = sin[pair];
            if (++pair == p.pairs) pair = 0;
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float first = v[2 * j], second = v[2 * j + 1];
        v[2 * j] = first * c[j] - second * s[j];
        v[2 * j + 1] = second * c[j] + first * s[j];
    }
}

/* A block takes several rows of up to a warp each, or one. */
__host__ __device__ constexpr int threads_for(int lanes) {
    return lanes > 32 ? lanes : THREADS;
}

/* Rows of whole vectors of eight, kept in registers between the passes. NARROW: y is of int8 or fp8. */
template <typename T, int LANES, int VECTORS, bool NARROW>
__global__ void __launch_bounds__(threads_for(LANES)) rows_kernel(zoe_cuda_rows p) {
    constexpr int at_once = threads_for(LANES) / LANES;
    int64_t rows = p.tokens * p.parts, row = (int64_t)blockIdx.x * at_once + threadIdx.x / LANES;
    bool valid = row < rows;
    if (!valid) row = rows - 1;
    int lane = threadIdx.x % LANES, vectors = p.width / 8;
    int64_t token = p.parts == 1 ? row : row / p.parts;
    int part = (int)(row - token * p.parts);
    const T *x = (const T *)p.x + token * p.ldx + (int64_t)part * p.width;
    int64_t to = token * p.ldy + (int64_t)part * p.width;
    float v[VECTORS][8], mean = 0, factor = 1;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        int at = lane + i * LANES;
        if (at < vectors) {
            load8(v[i], x + at * 8);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] = 0;
        }
    }
    if (p.kind == ZOE_CUDA_NORM_LAYER) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) sum += v[i][j];
        mean = group_sum<LANES>(sum) / (float)p.width;
    }
    if (p.kind != ZOE_CUDA_NORM_NONE) {
        float squares = 0;
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (lane + i * LANES < vectors) {
#pragma unroll
                for (int j = 0; j < 8; j++) squares += (v[i][j] - mean) * (v[i][j] - mean);
            }
        finish_statistics<LANES>(p, squares, &factor);
    }
    int64_t group = p.group ? p.group[token] : 0;
    float most = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        int column = (lane + i * LANES) * 8;
        if (column >= p.width || !valid) continue;
        float a[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = (v[i][j] - mean) * factor;
        if (p.weight) {
            load8(a, p.weight + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] *= a[j];
        }
        if (p.bias) {
            load8(a, p.bias + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] += a[j];
        }
        if (p.scale) {
            load8(a, p.scale + group * p.ld_scale + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] *= 1.0f + a[j];
        }
        if (p.shift) {
            load8(a, p.shift + group * p.ld_shift + column);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] += a[j];
        }
        if (p.act != ZOE_CUDA_ACT_NONE) activate_for<T>(v[i], p.act);
        if (!NARROW && p.cos) rotate8(p, v[i], token, (part * p.width + column) / 2 % p.pairs);
        if (NARROW) {
#pragma unroll
            for (int j = 0; j < 8; j++) most = larger(most, v[i][j]);
        } else {
            store8((T *)p.y + to + column, v[i]);
        }
    }
    if (NARROW) {
        narrow_scale scale = scale_for(group_largest<LANES>(most), p.y_type);
        if (valid && lane == 0) p.y_scale[row] = scale.scale;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            int column = (lane + i * LANES) * 8;
            if (column < p.width && valid) store8_narrow(p.y, to + column, v[i], scale, p.y_type, p.exact);
        }
    }
}

/* Some heads of a token a group of threads, LANES * 8 channels each: what all heads share is read once. */
template <typename T, int LANES> __global__ void __launch_bounds__(THREADS) heads_kernel(zoe_cuda_rows p) {
    int64_t sets = p.parts / HEADS, set = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    bool valid = set < p.tokens * sets;
    if (!valid) set = p.tokens * sets - 1;
    int column = threadIdx.x % LANES * 8;
    int64_t token = set / sets, from = set % sets * HEADS * p.width + column;
    const T *x = (const T *)p.x + token * p.ldx + from;
    T *y = (T *)p.y + token * p.ldy + from;
    float v[HEADS][8], weight[8], bias[8];
#pragma unroll
    for (int i = 0; i < HEADS; i++) load8(v[i], x + i * p.width);
#pragma unroll
    for (int j = 0; j < 8; j++) weight[j] = 1, bias[j] = 0;
    if (p.weight) load8(weight, p.weight + column);
    if (p.bias) load8(bias, p.bias + column);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        float sum = 0, squares = 0, mean = 0, factor;
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v[i][j];
        if (p.kind == ZOE_CUDA_NORM_LAYER) mean = group_sum<LANES>(sum) / (float)p.width;
#pragma unroll
        for (int j = 0; j < 8; j++) squares += (v[i][j] - mean) * (v[i][j] - mean);
        finish_statistics<LANES>(p, squares, &factor);
#pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = (v[i][j] - mean) * factor * weight[j] + bias[j];
        if (p.cos) rotate8(p, v[i], token, column / 2);
    }
#pragma unroll
    for (int i = 0; i < HEADS; i++)
        if (valid) store8(y + i * p.width, v[i]);
}

/* False where these are no heads of a width that the kernel is made for. */
template <typename T> static bool launch_heads(const zoe_cuda_rows *p, cudaStream_t stream) {
    bool plain = !p->scale && !p->shift && p->act == ZOE_CUDA_ACT_NONE && p->kind != ZOE_CUDA_NORM_NONE;
    int64_t lanes = p->width / 8, blocks = (p->tokens * (p->parts / HEADS) * lanes + THREADS - 1) / THREADS;
    if (!plain || p->parts % HEADS || (p->cos && p->pairs != p->width / 2)) return false;
    if (p->width == 64)
        heads_kernel<T, 8><<<(unsigned)blocks, THREADS, 0, stream>>>(*p);
    else if (p->width == 128)
        heads_kernel<T, 16><<<(unsigned)blocks, THREADS, 0, stream>>>(*p);
    else
        return false;
    return true;
}

/* Two neighbours of a row; `column` counts in the part. */
__device__ __forceinline__ void row_pair(const zoe_cuda_rows &p, int64_t token, int part, int column, float mean,
                                         float factor, float (&v)[2]) {
    int64_t from = token * p.ldx + (int64_t)part * p.width, group = p.group ? p.group[token] : 0;
    for (int j = 0; j < 2; j++) {
        int c = column + j;
        v[j] = 0;
        if (c >= p.width) continue;
        v[j] = (load_any(p.x, p.x_type, from + c) - mean) * factor;
        if (p.weight) v[j] *= p.weight[c];
        if (p.bias) v[j] += p.bias[c];
        if (p.scale) v[j] *= 1.0f + p.scale[group * p.ld_scale + c];
        if (p.shift) v[j] += p.shift[group * p.ld_shift + c];
        v[j] = activation(v[j], p.act);
    }
    if (p.cos) {
        int64_t pair = token * p.pairs + (part * p.width + column) / 2 % p.pairs;
        float first = v[0], c = p.cos[pair], s = p.sin[pair];
        v[0] = first * c - v[1] * s;
        v[1] = v[1] * c + first * s;
    }
}

/* Rows of any width and types, a warp each, read again for every pass. A lane takes whole pairs. */
__global__ void __launch_bounds__(THREADS) any_rows_kernel(zoe_cuda_rows p) {
    int64_t rows = p.tokens * p.parts, row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    int lane = threadIdx.x % 32;
    int64_t token = row / p.parts;
    int part = (int)(row % p.parts);
    int64_t from = token * p.ldx + (int64_t)part * p.width, to = token * p.ldy + (int64_t)part * p.width;
    bool narrow = p.y_type == ZOE_I8 || p.y_type == ZOE_F8_E4M3;
    float mean = 0, factor = 1, v[2];
    narrow_scale scale = {0, 0};
    if (p.kind == ZOE_CUDA_NORM_LAYER) {
        float sum = 0;
        for (int i = lane; i < p.width; i += 32) sum += load_any(p.x, p.x_type, from + i);
        mean = group_sum<32>(sum) / (float)p.width;
    }
    if (p.kind != ZOE_CUDA_NORM_NONE) {
        float squares = 0;
        for (int i = lane; i < p.width; i += 32) {
            float d = load_any(p.x, p.x_type, from + i) - mean;
            squares += d * d;
        }
        finish_statistics<32>(p, squares, &factor);
    }
    if (narrow) {
        float most = 0;
        for (int i = 2 * lane; i < p.width; i += 64) {
            row_pair(p, token, part, i, mean, factor, v);
            most = larger(most, larger(v[0], v[1]));
        }
        scale = scale_for(group_largest<32>(most), p.y_type);
        if (lane == 0) p.y_scale[row] = scale.scale;
    }
    for (int i = 2 * lane; i < p.width; i += 64) {
        row_pair(p, token, part, i, mean, factor, v);
        for (int j = 0; j < 2 && i + j < p.width; j++)
            if (narrow)
                ((uint8_t *)p.y)[to + i + j] = (uint8_t)to_narrow(v[j], 0, scale, p.y_type);
            else
                store_any(p.y, p.y_type, to + i + j, v[j]);
    }
}

template <typename T, int LANES, int VECTORS, bool NARROW> static void launch(const zoe_cuda_rows *p, cudaStream_t stream) {
    int threads = threads_for(LANES);
    int64_t rows = p->tokens * p->parts, step = threads / LANES;
    rows_kernel<T, LANES, VECTORS, NARROW><<<(unsigned)((rows + step - 1) / step), threads, 0, stream>>>(*p);
}

/* False where the row is too wide to be kept in registers. */
template <typename T, bool NARROW> static bool launch_vectors(const zoe_cuda_rows *p, cudaStream_t stream) {
    int vectors = p->width / 8;
    if (vectors <= 4)
        launch<T, 4, 1, NARROW>(p, stream);
    else if (vectors <= 8)
        launch<T, 8, 1, NARROW>(p, stream);
    else if (vectors <= 12)
        launch<T, 4, 3, NARROW>(p, stream);
    else if (vectors <= 16)
        launch<T, 8, 2, NARROW>(p, stream);
    else if (vectors <= 24)
        launch<T, 8, 3, NARROW>(p, stream);
    else if (vectors <= 32)
        launch<T, 16, 2, NARROW>(p, stream);
    else if (vectors <= 48)
        launch<T, 16, 3, NARROW>(p, stream);
    else if (vectors <= 64)
        launch<T, 16, 4, NARROW>(p, stream);
    else if (vectors <= 128)
        launch<T, 32, 4, NARROW>(p, stream);
    else if (vectors <= 192)
        launch<T, 64, 3, NARROW>(p, stream);
    else if (vectors <= 256)
        launch<T, 64, 4, NARROW>(p, stream);
    else if (vectors <= 512)
        launch<T, 128, 4, NARROW>(p, stream);
    else if (vectors <= 640)
        launch<T, 128, 5, NARROW>(p, stream);
    else if (vectors <= 768)
        launch<T, 192, 4, NARROW>(p, stream);
    else if (NARROW && vectors <= 1152) /* hidden rows of an MLP */
        launch<T, 288, 4, NARROW>(p, stream);
    else if (NARROW && vectors <= 1792)
        launch<T, 448, 4, NARROW>(p, stream);
    else
        return false;
    return true;
}

static bool whole_vectors(const zoe_cuda_rows *p) {
    const void *pointers[] = {p->x, p->y, p->weight, p->bias, p->scale, p->shift, p->cos, p->sin};
    if (p->width % 8 || p->ldx % 8 || p->ldy % 8) return false;
    if ((p->scale && p->ld_scale % 4) || (p->shift && p->ld_shift % 4)) return false;
    for (int i = 0; i < 8; i++)
        if (!aligned16(pointers[i])) return false;
    return true;
}

cudaError_t zoe_cuda_launch_rows(const zoe_cuda_rows *p, cudaStream_t stream) {
    int64_t rows = p->tokens * p->parts;
    bool narrow = p->y_type == ZOE_I8 || p->y_type == ZOE_F8_E4M3, whole = whole_vectors(p), done = false;
    if (rows <= 0) return cudaSuccess;
    if (whole && p->x_type == ZOE_BF16 && p->y_type == ZOE_BF16) done = launch_heads<bf16>(p, stream);
    if (whole && p->x_type == ZOE_F32 && p->y_type == ZOE_F32) done = launch_heads<float>(p, stream);
    if (done) return cudaGetLastError();
    if (whole && p->x_type == ZOE_BF16 && narrow) done = launch_vectors<bf16, true>(p, stream);
    if (whole && p->x_type == ZOE_F32 && narrow) done = launch_vectors<float, true>(p, stream);
    if (whole && p->x_type == ZOE_BF16 && p->y_type == ZOE_BF16) done = launch_vectors<bf16, false>(p, stream);
    if (whole && p->x_type == ZOE_F32 && p->y_type == ZOE_F32) done = launch_vectors<float, false>(p, stream);
    if (!done) any_rows_kernel<<<(unsigned)((rows + 7) / 8), THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

/* ---- softmax ---- */

/* A block takes a row of scores. */
__global__ void __launch_bounds__(THREADS) softmax_kernel(zoe_cuda_softmax p) {
    __shared__ float tops[THREADS / 32];
    int64_t row = blockIdx.x, head = row / p.queries, query = row % p.queries;
    const float *scores = p.scores + row * p.ld;
    const float *bias = p.bias ? p.bias + head * p.bias_width + p.bias_start - query : NULL;
    float top = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < p.keys; i += THREADS) {
        float score = scores[i] + (bias ? bias[i] : 0) + (i == p.keys - 1 ? p.last : 0);
        top = fmaxf(top, score);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) top = fmaxf(top, tops[i]);
    for (int64_t i = threadIdx.x; i < p.keys; i += THREADS)
        sum += expf(scores[i] + (bias ? bias[i] : 0) + (i == p.keys - 1 ? p.last : 0) - top);
    sum = 1.0f / group_sum<THREADS>(sum);
    for (int64_t i = threadIdx.x; i < p.keys; i += THREADS) {
        float score = scores[i] + (bias ? bias[i] : 0) + (i == p.keys - 1 ? p.last : 0);
        store_any(p.p, p.p_type, row * p.ld + i, expf(score - top) * sum);
    }
}

cudaError_t zoe_cuda_launch_softmax(const zoe_cuda_softmax *p, cudaStream_t stream) {
    if (p->heads * p->queries <= 0) return cudaSuccess;
    softmax_kernel<<<(unsigned)(p->heads * p->queries), THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

/* ---- embedding ---- */

__global__ void __launch_bounds__(THREADS)
    embedding_kernel(void *y, int y_type, int64_t ldy, const void *table, int table_type, int64_t entries, int64_t width,
                     const int32_t *ids, int64_t step) {
    int64_t row = blockIdx.x, id = ids[row * step];
    bool known = id >= 0 && id < entries;
    for (int64_t i = threadIdx.x; i < width; i += THREADS)
        store_any(y, y_type, row * ldy + i, known ? load_any(table, table_type, id * width + i) : NAN);
}

cudaError_t zoe_cuda_launch_embedding(void *y, int y_type, int64_t ldy, const void *table, int table_type, int64_t entries,
                                      int64_t width, const int32_t *ids, int64_t step, int64_t count, cudaStream_t stream) {
    if (count <= 0) return cudaSuccess;
    embedding_kernel<<<(unsigned)count, THREADS, 0, stream>>>(y, y_type, ldy, table, table_type, entries, width, ids, step);
    return cudaGetLastError();
}
