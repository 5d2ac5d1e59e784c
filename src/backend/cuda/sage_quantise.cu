/* What goes into quantised attention (sage.cuh): means of the keys, largest values by channel, then the tiles. */
#include "backend/cuda/sage.cuh"

#define THREADS 256

#define INT8_MOST 127.0f
#define E4M3_MOST 448.0f

/* The low byte is x rounded to a whole number, for |x| < 2^22. */
__device__ __forceinline__ uint32_t rounded(float x, float times) {
    return __float_as_uint(__fmaf_rn(x, times, 12582912.0f));
}

__device__ __forceinline__ uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

/* Sixteen numbers as int8. */
__device__ __forceinline__ uint4 to_int8(const float *x, float times) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = low_bytes(rounded(x[4 * i], times), rounded(x[4 * i + 1], times), rounded(x[4 * i + 2], times),
                             rounded(x[4 * i + 3], times));
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/* Keys that a chunk's mean is taken from: whatever is subtracted from all keys changes no probability. */
__host__ __device__ constexpr int sampled(int dim) {
    return THREADS / (dim / 8);
}

/* Sums of some keys and largest of all values [chunks, heads, D] of ZOE_SAGE_CHUNK keys each. */
template <int D> __global__ void __launch_bounds__(THREADS) stats_kernel(zoe_cuda_flash p, float *k_sums, float *v_mosts) {
    constexpr int pieces = D / 8, lines = THREADS / pieces;
    __shared__ float shared[2][lines][D];
    int head = blockIdx.y, piece = threadIdx.x % pieces, line = threadIdx.x / pieces;
    int first = blockIdx.x * ZOE_SAGE_CHUNK, end = min(first + ZOE_SAGE_CHUNK, p.keys);
    const bf16 *k = (const bf16 *)p.k + head * p.k_head + piece * 8, *v = (const bf16 *)p.v + head * p.v_head + piece * 8;
    float sum[8] = {0}, most[8] = {0};
    if (first + line < end) load8(sum, k + (first + line) * p.k_row);
#pragma unroll 4
    for (int row = first + line; row < end; row += lines) {
        float x[8];
        load8(x, v + row * p.v_row);
#pragma unroll
        for (int i = 0; i < 8; i++) most[i] = max_or_nan(most[i], fabsf(x[i]));
    }
#pragma unroll
    for (int i = 0; i < 8; i++) shared[0][line][piece * 8 + i] = sum[i], shared[1][line][piece * 8 + i] = most[i];
    __syncthreads();
    if (threadIdx.x < D) {
        float total = 0, largest = 0;
        for (int i = 0; i < lines; i++) {
            total += shared[0][i][threadIdx.x];
            largest = max_or_nan(largest, shared[1][i][threadIdx.x]);
        }
        int64_t at = ((int64_t)blockIdx.x * p.heads + head) * D + threadIdx.x;
        k_sums[at] = total, v_mosts[at] = largest;
    }
}

/* k_mean and v_factor [heads, dim], one thread for each. */
__global__ void finish_kernel(int channels, int chunks, float samples, const float *k_sums, const float *v_mosts,
                              float *k_mean, float *v_factor) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= channels) return;
    float sum = 0, most = 0;
    for (int c = 0; c < chunks; c++) {
        sum += k_sums[(int64_t)c * channels + i];
        most = max_or_nan(most, v_mosts[(int64_t)c * channels + i]);
    }
    k_mean[i] = sum / samples;
    v_factor[i] = most / E4M3_MOST;
}

/* A tile of 64 queries: int8 with a factor for each, which holds the softmax's own. Rows past the end become zeros. */
template <int D> __global__ void __launch_bounds__(THREADS) queries_kernel(zoe_cuda_flash p, int8_t *to, float *factors) {
    constexpr int pieces = D / 16, steps = SAGE_QUERIES * pieces / THREADS;
    int head = blockIdx.y, piece = threadIdx.x % pieces;
    int64_t tile = (int64_t)head * gridDim.x + blockIdx.x;
#pragma unroll
    for (int s = 0; s < steps; s++) {
        int row = threadIdx.x / pieces + s * (THREADS / pieces), query = blockIdx.x * SAGE_QUERIES + row;
        float x[16] = {0}, most = 0;
        if (query < p.queries) {
            const bf16 *from = (const bf16 *)p.q + head * p.q_head + query * p.q_row + piece * 16;
            load8(x, from), load8(x + 8, from + 8);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) most = max_or_nan(most, fabsf(x[i]));
#pragma unroll
        for (int step = pieces / 2; step > 0; step /= 2) most = max_or_nan(most, __shfl_xor_sync(0xffffffffu, most, step));
        if (piece == 0) factors[tile * SAGE_QUERIES + row] = most * (p.scale * 1.4426950408889634f / INT8_MOST);
        *(uint4 *)(to + tile * SAGE_QUERIES * D + sage_piece<D>(row, piece)) =
            to_int8(x, most < 1e-30f ? 0 : INT8_MOST / most);
    }
}

/* A tile of 128 keys less their mean: int8 with one factor. */
template <int D>
__global__ void __launch_bounds__(THREADS) keys_kernel(zoe_cuda_flash p, const float *mean, int8_t *to, float *factors) {
    constexpr int pieces = D / 16, steps = SAGE_KEYS * pieces / THREADS;
    __shared__ float mosts[THREADS / 32];
    int head = blockIdx.y, piece = threadIdx.x % pieces;
    int64_t tile = (int64_t)head * gridDim.x + blockIdx.x;
    float x[steps][16], middle[16], most = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) middle[i] = mean[head * D + piece * 16 + i];
#pragma unroll
    for (int s = 0; s < steps; s++) {
        int row = threadIdx.x / pieces + s * (THREADS / pieces), key = blockIdx.x * SAGE_KEYS + row;
        bool there = key < p.keys;
        const bf16 *from = (const bf16 *)p.k + head * p.k_head + (there ? key : 0) * p.k_row + piece * 16;
        load8(x[s], from), load8(x[s] + 8, from + 8);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x[s][i] = there ? x[s][i] - middle[i] : 0;
            most = max_or_nan(most, fabsf(x[s][i]));
        }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = max_or_nan(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (threadIdx.x % 32 == 0) mosts[threadIdx.x / 32] = most;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) most = max_or_nan(most, mosts[i]);
    if (threadIdx.x == 0) factors[tile] = most * (1 / INT8_MOST);
    float times = most < 1e-30f ? 0 : INT8_MOST / most;
#pragma unroll
    for (int s = 0; s < steps; s++) {
        int row = threadIdx.x / pieces + s * (THREADS / pieces);
        *(uint4 *)(to + tile * SAGE_KEYS * D + sage_piece<D>(row, piece)) = to_int8(x[s], times);
    }
}

/* A tile of 128 values, transposed: a thread takes the four keys that stand side by side, of eight channels at a time. */
template <int D, bool HALF>
__global__ void __launch_bounds__(THREADS) values_kernel(zoe_cuda_flash p, const float *factors, char *to) {
    constexpr int quads = SAGE_KEYS / 4, pieces = D / 8, words = HALF ? 2 : 1, width = SAGE_KEYS * words;
    __shared__ uint32_t shared[D][quads * words + 1];
    int head = blockIdx.y;
    int64_t tile = (int64_t)head * gridDim.x + blockIdx.x;
    const bf16 *v = (const bf16 *)p.v + head * p.v_head;
#pragma unroll
    for (int s = 0; s < quads * pieces / THREADS; s++) {
        /* Four pieces and eight quads a warp: no two of its stores of words meet in a bank. */
        int index = threadIdx.x + s * THREADS, group = index / 32;
        int piece = group % (pieces / 4) * 4 + index % 4, quad = group / (pieces / 4) * 8 + index / 4 % 8;
        int key = blockIdx.x * SAGE_KEYS + (HALF ? quad * 4 : quad / 4 * 16 + quad % 4 * 2);
        float x[4][8];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = key + (HALF ? i : i % 2 + i / 2 * 8);
            load8(x[i], v + (row < p.keys ? row : 0) * p.v_row + piece * 8);
            if (row >= p.keys)
#pragma unroll
                for (int j = 0; j < 8; j++) x[i][j] = 0;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float factor = factors[head * D + piece * 8 + j], times = factor < 1e-30f ? 0 : 1 / factor;
            uint32_t *word = &shared[piece * 8 + j][quad * words];
            if (HALF) {
                word[0] = pack_half(x[0][j] * times, x[1][j] * times);
                word[words - 1] = pack_half(x[2][j] * times, x[3][j] * times);
            } else {
                word[0] = pack_e4m3(x[0][j] * times, x[1][j] * times, x[2][j] * times, x[3][j] * times);
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < D * (width / 16) / THREADS; s++) {
        int index = threadIdx.x + s * THREADS, channel = index / (width / 16), piece = index % (width / 16);
        const uint32_t *from = shared[channel] + piece * 4;
        *(uint4 *)(to + tile * D * width + sage_piece<width>(channel, piece)) =
            make_uint4(from[0], from[1], from[2], from[3]);
    }
}

typedef struct scratch {
    sage_operands o;
    float *k_sums, *v_mosts, *k_mean;
    int chunks;
} scratch;

static scratch lay_out(const zoe_cuda_flash *p, bool half, char *memory) {
    zoe_sage_layout l = zoe_sage_lay_out(p->heads, p->queries, p->keys, p->dim, half ? 2 : 1);
    scratch s;
    s.o.q = (int8_t *)(memory + l.at[ZOE_SAGE_Q]);
    s.o.k = (int8_t *)(memory + l.at[ZOE_SAGE_K]);
    s.o.v = memory + l.at[ZOE_SAGE_V];
    s.o.q_factor = (float *)(memory + l.at[ZOE_SAGE_Q_FACTOR]);
    s.o.k_factor = (float *)(memory + l.at[ZOE_SAGE_K_FACTOR]);
    s.o.v_factor = (float *)(memory + l.at[ZOE_SAGE_V_FACTOR]);
    s.o.y = (bf16 *)p->y;
    s.o.y_head = p->y_head, s.o.y_row = p->y_row;
    s.o.heads = p->heads, s.o.queries = p->queries, s.o.keys = p->keys;
    s.o.query_tiles = (int)l.query_tiles, s.o.key_tiles = (int)l.key_tiles;
    s.k_sums = (float *)(memory + l.at[ZOE_SAGE_K_SUMS]);
    s.v_mosts = (float *)(memory + l.at[ZOE_SAGE_V_MOSTS]);
    s.k_mean = (float *)(memory + l.at[ZOE_SAGE_K_MEAN]);
    s.chunks = (int)l.chunks;
    return s;
}

template <int D> static cudaError_t quantise(const zoe_cuda_flash *p, bool half, const scratch *s, cudaStream_t stream) {
    const sage_operands *o = &s->o;
    unsigned heads = (unsigned)p->heads;
    int channels = p->heads * D, rest = p->keys % ZOE_SAGE_CHUNK, some = sampled(D);
    float samples = (float)(p->keys / ZOE_SAGE_CHUNK * some + (rest < some ? rest : some));
    stats_kernel<D><<<dim3((unsigned)s->chunks, heads), THREADS, 0, stream>>>(*p, s->k_sums, s->v_mosts);
    finish_kernel<<<(unsigned)(channels + 127) / 128, 128, 0, stream>>>(channels, s->chunks, samples, s->k_sums, s->v_mosts,
                                                                        s->k_mean, (float *)o->v_factor);
    queries_kernel<D>
        <<<dim3((unsigned)o->query_tiles, heads), THREADS, 0, stream>>>(*p, (int8_t *)o->q, (float *)o->q_factor);
    keys_kernel<D>
        <<<dim3((unsigned)o->key_tiles, heads), THREADS, 0, stream>>>(*p, s->k_mean, (int8_t *)o->k, (float *)o->k_factor);
    auto values = half ? values_kernel<D, true> : values_kernel<D, false>;
    values<<<dim3((unsigned)o->key_tiles, heads), THREADS, 0, stream>>>(*p, o->v_factor, (char *)o->v);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_sage_quantise(const zoe_cuda_flash *p, bool half, sage_operands *out, void *memory,
                                   cudaStream_t stream) {
    scratch s = lay_out(p, half, (char *)memory);
    *out = s.o;
    return p->dim == 128 ? quantise<128>(p, half, &s, stream) : quantise<64>(p, half, &s, stream);
}
