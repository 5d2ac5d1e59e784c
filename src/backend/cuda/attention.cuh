/* What the kernels of attention share that keep rows of the result in the matrix unit's accumulators. */
#ifndef ZOE_BACKEND_CUDA_ATTENTION_CUH
#define ZOE_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/device.cuh"

/*
 * Writes a thread's two rows [D] of `result` over their sums, of which each thread of four has a part: to rows `row` and
 * row + 8 of y where those are below `rows`. Neighbours swap halves first, so that the four write 32 bytes side by side.
 */
template <int D>
__device__ __forceinline__ void write_rows(bf16 *y, int64_t step, int row, int rows, const float (&sums)[2],
                                           const float (&result)[D / 2]) {
    int odd = threadIdx.x % 2;
#pragma unroll
    for (int half = 0; half < 2; half++, row += 8) {
        float sum = sums[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float scale = 1 / sum;
        bf16 *to = y + row * step + odd * 8 + threadIdx.x % 4 / 2 * 4;
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            const float *from = result + 8 * j + 2 * half;
            uint32_t low = pack_bf16(from[0] * scale, from[1] * scale), high = pack_bf16(from[4] * scale, from[5] * scale);
            uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
            if (row < rows) *(uint2 *)(to + j * 16) = odd ? make_uint2(other, high) : make_uint2(low, other);
        }
    }
}

#endif
