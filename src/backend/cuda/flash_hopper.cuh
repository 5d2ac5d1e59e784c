/* What the kernels of bf16 attention on Hopper share: an online softmax on the matrix unit's accumulators, tensor maps. */
#ifndef ZOE_BACKEND_CUDA_FLASH_HOPPER_CUH
#define ZOE_BACKEND_CUDA_FLASH_HOPPER_CUH

#include "backend/cuda/attention.cuh"
#include "backend/cuda/bulk.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/wgmma.cuh"

/* How far, in powers of two, a row's scores may rise above what they are measured from before older sums are rescaled. */
#define FLASH_SLACK 8.0f

/* What a thread keeps of its two rows of the softmax. */
struct flash_rows {
    float top[2], sum[2], correction[2];
};

/*
 * Scores s become probabilities, of which `left` count; to the last of all, `last` is added before. True: sums of before
 * are to be multiplied by `correction`.
 */
template <int KEYS>
__device__ __forceinline__ bool flash_soften(float (&s)[KEYS / 2], flash_rows &r, float factor, int left, float last) {
    if (left <= KEYS) {
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++) {
            int key = j / 4 * 8 + threadIdx.x % 4 * 2 + j % 2;
            s[j] = key < left - 1 ? s[j] : key < left ? s[j] + last : -INFINITY;
        }
    }
    float top[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float best[2] = {s[2 * half], s[2 * half + 1]};
#pragma unroll
        for (int j = 1; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) best[i] = fmaxf(best[i], s[4 * j + 2 * half + i]);
        top[half] = fmaxf(best[0], best[1]) * factor;
    }
    /* Tops of a row's four threads are put together only where one of them rose: after the first tiles seldom. */
    bool moved = !(top[0] <= r.top[0] + FLASH_SLACK) || !(top[1] <= r.top[1] + FLASH_SLACK);
    moved = __any_sync(0xffffffffu, moved);
    if (moved) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
            top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
            r.correction[half] = 1;
            if (!(top[half] <= r.top[half] + FLASH_SLACK)) {
                r.correction[half] = exp2_fast(r.top[half] - top[half]);
                r.top[half] = top[half];
                r.sum[half] *= r.correction[half];
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float part[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &p = s[4 * j + 2 * half + i];
                p = exp2_fast(__fmaf_rn(p, factor, -r.top[half]));
                part[i] += p;
            }
        r.sum[half] += part[0] + part[1];
    }
    return moved;
}

template <int KEYS> __device__ __forceinline__ void flash_pack(uint32_t (&operands)[KEYS / 4], const float (&p)[KEYS / 2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) operands[i] = pack_bf16(p[2 * i], p[2 * i + 1]);
}

typedef struct flash_maps {
    CUtensorMap q, k, v;
} flash_maps;

/* Boxes of 64 channels and `box` rows of a tensor [heads, rows, dim]. */
static inline bool flash_map(CUtensorMap *map, const void *data, int dim, int rows, int heads, int64_t row, int64_t head,
                             int box) {
    cuuint64_t shape[3] = {(cuuint64_t)dim, (cuuint64_t)rows, (cuuint64_t)heads};
    cuuint64_t strides[2] = {(cuuint64_t)row * 2, (cuuint64_t)head * 2};
    cuuint32_t boxes[3] = {64, (cuuint32_t)box, 1}, steps[3] = {1, 1, 1};
    return cuTensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)data, shape, strides, boxes, steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif
