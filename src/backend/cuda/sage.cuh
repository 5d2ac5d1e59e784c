/*
 * Quantised attention (after SageAttention 2, Zhang et al. 2024): products of queries and keys in int8, of probabilities
 * and values in e4m3. What quantisation leaves behind, and where it lies: sage_quantise.cu writes it, the kernels read it.
 *
 * Everything stands in tiles that one bulk copy brings into shared memory as the matrix unit reads them: rows of 128 bytes
 * (64 for queries and keys of 64 channels) whose 16-byte pieces are swizzled.
 *   q [heads, query tiles, 64, dim] int8, q_factor [heads, 64 * query tiles]
 *   k [heads, key tiles, 128, dim] int8, k_factor [heads, key tiles]: the score in base 2 is q_factor k_factor (q k)
 *   v [heads, key tiles, dim, 128] e4m3, or half for chips without products of e4m3; v_factor [heads, dim]
 * The keys of e4m3 are permuted within every sixteen, so that a thread's scores of keys 2 i, 2 i + 1, 2 i + 8, 2 i + 9 are,
 * as they come out of the first product, its four neighbouring operands of the second.
 */
#ifndef ZOE_BACKEND_CUDA_SAGE_CUH
#define ZOE_BACKEND_CUDA_SAGE_CUH

#include "backend/cuda/attention.cuh"
#include "backend/sage.h"

#define SAGE_QUERIES ZOE_SAGE_QUERIES
#define SAGE_KEYS    ZOE_SAGE_KEYS

typedef struct sage_operands {
    const int8_t *q, *k;
    const void *v;
    const float *q_factor, *k_factor, *v_factor;
    bf16 *y;
    int64_t y_head, y_row;
    int heads, queries, keys, query_tiles, key_tiles;
} sage_operands;

/* Queues what fills *out, in `memory`; with values of half, or of e4m3. */
cudaError_t zoe_cuda_sage_quantise(const zoe_cuda_flash *p, bool half, sage_operands *out, void *memory,
                                   cudaStream_t stream);

/* On wgmma: compute capability 9.0 only, values of e4m3. */
cudaError_t zoe_cuda_launch_sage_hopper(const sage_operands *o, int dim, cudaStream_t stream);

/* Probabilities are 2^(score - top + SAGE_RAISE): the largest fills e4m3 even where a row's top lags by SAGE_SLACK, which
 * saves rescaling older sums for every small rise. */
#define SAGE_SLACK 1.0f
#define SAGE_RAISE (8.807f - SAGE_SLACK)

/* Where 16-byte piece `piece` of row `row` lies in a tile of rows of WIDTH bytes. */
template <int WIDTH> __host__ __device__ __forceinline__ int sage_piece(int row, int piece) {
    return row * WIDTH + ((WIDTH == 64 ? piece ^ (row >> 1 & 3) : piece ^ (row & 7)) * 16);
}

/* As fmaxf, but NaN wins, so that it reaches the result. */
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/* Four numbers as e4m3. */
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
    uint32_t y;
    asm("{\n"
        ".reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n"
        "}"
        : "=r"(y)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return y;
#else
    return 0; /* never taken: see zoe_cuda_launch_sage() */
#endif
}

/* The bits of the float 1.5 * 2^23: with a whole number below 2^22 added they are the bits of their sum. */
#define SAGE_ZERO_BITS 0x4b400000
#define SAGE_ZERO      12582912.0f

/* What a thread keeps of its two rows of the softmax. The probability of a score s is 2^((s + SAGE_ZERO) factor + low). */
struct sage_rows {
    float q_factor[2], top[2], sum[2], correction[2], factor[2], low[2];
};

/*
 * Takes COUNT / 4 times eight keys' scores s in, two of each row side by side, of which `left` keys count. Returns whether
 * the top of a row of the warp moved, for which older results are to be multiplied by `correction`.
 */
template <int COUNT> __device__ __forceinline__ bool sage_tops(int (&s)[COUNT], sage_rows &r, float k_factor, int left) {
    float top[2];
    if (left < COUNT * 2) { /* what has no key becomes minus infinity */
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            if (j / 4 * 8 + threadIdx.x % 4 * 2 + j % 2 >= left) s[j] = (int)(0xff800000u - SAGE_ZERO_BITS);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int best[2] = {s[2 * half], s[2 * half + COUNT / 2]};
#pragma unroll
        for (int j = 0; j < COUNT / 4; j++) {
            const int *two = s + 4 * j + 2 * half;
            best[j * 8 / COUNT] = __vimax3_s32(best[j * 8 / COUNT], two[0], two[1]);
        }
        r.factor[half] = max_or_nan(r.q_factor[half] * k_factor, 1e-30f); /* times infinity, 0 would not be a number */
        top[half] = (__int_as_float(max(best[0], best[1]) + SAGE_ZERO_BITS) - SAGE_ZERO) * r.factor[half];
    }
    /* Tops of a row's four threads are put together only where one of them rose: after the first tiles seldom. */
    bool moved = !(top[0] <= r.top[0] + SAGE_SLACK) || !(top[1] <= r.top[1] + SAGE_SLACK);
    moved = __any_sync(0xffffffffu, moved);
    if (moved) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
            top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
            r.correction[half] = 1;
            if (!(top[half] <= r.top[half] + SAGE_SLACK)) {
                r.correction[half] = exp2_fast(r.top[half] - top[half]);
                r.top[half] = top[half];
                r.sum[half] *= r.correction[half];
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) r.low[half] = SAGE_RAISE - r.top[half] - SAGE_ZERO * r.factor[half];
    return moved;
}

/* 2^x on the multiply-add units, 0.2 % off: much less than what e4m3 rounds away. */
__device__ __forceinline__ float exp2_rough(float x) {
    x = fmaxf(x, -126.0f);
    float whole = x + SAGE_ZERO, rest = x - (whole - SAGE_ZERO);
    float y = __fmaf_rn(__fmaf_rn(0.24022651f, rest, 0.6957f), rest, 1.0f);
    return __int_as_float(__float_as_int(y) + (__float_as_int(whole) << 23));
}

/* Probabilities of sixteen keys, of eight scores; of number `rough` by exp2_rough(). */
__device__ __forceinline__ void sage_probabilities(float *p, const int *s, sage_rows &r, int rough) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float x = __fmaf_rn(__int_as_float(s[j] + SAGE_ZERO_BITS), r.factor[j / 2 % 2], r.low[j / 2 % 2]);
        p[j] = j == rough ? exp2_rough(x) : exp2_fast(x);
    }
#pragma unroll
    for (int half = 0; half < 2; half++)
        r.sum[half] += (p[2 * half] + p[2 * half + 1]) + (p[2 * half + 4] + p[2 * half + 5]);
}

/* Writes a thread's two rows, `row` and the eighth after it. */
template <int D>
__device__ __forceinline__ void sage_write(const sage_operands &o, const sage_rows &r, float (&result)[D / 2], int head,
                                           int row) {
    const float *v_factor = o.v_factor + head * D + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 2; i++) result[i] *= v_factor[i / 4 * 8 + i % 2];
    write_rows<D>(o.y + head * o.y_head, o.y_row, row, o.queries, r.sum, result);
}

#endif
