/* What the kernels of attention share that keep rows of the result in the matrix unit's accumulators. */
#ifndef ZOE_BACKEND_CUDA_ATTENTION_CUH
#define ZOE_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/device.cuh"

/* Four sums of bf16, rounded once. */
__device__ __forceinline__ uint2 add_bf16(uint2 a, uint2 b) {
    return make_uint2(pack_bf16(__uint_as_float(a.x << 16) + __uint_as_float(b.x << 16),
                                __uint_as_float(a.x & 0xffff0000u) + __uint_as_float(b.x & 0xffff0000u)),
                      pack_bf16(__uint_as_float(a.y << 16) + __uint_as_float(b.y << 16),
                                __uint_as_float(a.y & 0xffff0000u) + __uint_as_float(b.y & 0xffff0000u)));
}

/*
 * Writes a thread's two rows [D] of `result` over their sums, of which each thread of four has a part: to rows `row` and
 * row + 8 of y where those are below `rows`. Neighbours swap halves first, so that the four write 32 bytes side by side.
 * With `add` they are added to what is there.
 */
template <int D>
__device__ __forceinline__ void write_rows(bf16 *y, int64_t step, int row, int rows, const float (&sums)[2],
                                           const float (&result)[D / 2], bool add = false) {
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
            uint2 four = odd ? make_uint2(other, high) : make_uint2(low, other), *at = (uint2 *)(to + j * 16);
            if (row < rows) *at = add ? add_bf16(four, *at) : four;
        }
    }
}

#endif
