/* Matrices of four bits made and widened again. Rows of int8 and fp8 are made by the kernels of rows.cu. */
#include "backend/cuda/device.cuh"

#define THREADS 256

static unsigned blocks_for(int64_t count) {
    int64_t blocks = (count + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 1 << 20 ? blocks : 1 << 20);
}

#define LOOP(i, count)                                                                                                     \
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < (count); i += (int64_t)gridDim.x * THREADS)

/* ---- made ---- */

__device__ __forceinline__ float largest_of(const void *x, int type, int64_t from, int count) {
    float most = 0;
    for (int i = 0; i < count; i++) most = larger(most, load_any(x, type, from + i));
    return most;
}

/* A thread takes a group of elements under one scale. */
__global__ void __launch_bounds__(THREADS) int4_kernel(zoe_cuda_four_bits p) {
    LOOP(group, p.count / p.group) {
        int64_t from = group * p.group;
        __half scale = __float2half_rn(largest_of(p.x, p.x_type, from, p.group) / 7.0f);
        narrow_scale s = scale_of(__half2float(scale));
        ((__half *)p.scales)[group] = scale;
        for (int i = 0; i < p.group; i += 2) {
            int low = __float2int_rn(quantised(load_any(p.x, p.x_type, from + i), s, 7)),
                high = __float2int_rn(quantised(load_any(p.x, p.x_type, from + i + 1), s, 7));
            ((uint8_t *)p.data)[(from + i) / 2] = (uint8_t)((low & 15) | high << 4);
        }
    }
}

/* *most, as bits, is at least every magnitude; 0 before. The largest of all is the same in any order. */
__global__ void __launch_bounds__(THREADS) largest_kernel(uint32_t *most, const void *x, int type, int64_t count) {
    float mine = 0;
    LOOP(i, count) mine = larger(mine, load_any(x, type, i));
    mine = group_largest<32>(mine);
    if (threadIdx.x % 32 == 0) atomicMax(most, __float_as_uint(mine));
}

/* The scale for all of a matrix by its largest magnitude: backend/quantised.h */
__global__ void global_scale_kernel(float *global) {
    int exponent;
    float largest = *global, mantissa = frexpf(largest, &exponent);
    if (largest == 0 || (largest >= 0x1p-7f && largest <= 5.25f))
        *global = 0x1p-9f;
    else if (isfinite(largest))
        *global = ldexpf(1.0f, exponent - 12 + (mantissa > 0.65625f));
}

/* The code of the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; of two as near the even code. */
__device__ __forceinline__ uint32_t to_e2m1(float x) {
    float a = fabsf(x);
    uint32_t code = a <= 0.25f   ? 0
                    : a < 0.75f  ? 1
                    : a <= 1.25f ? 2
                    : a < 1.75f  ? 3
                    : a <= 2.5f  ? 4
                    : a < 3.5f   ? 5
                    : a <= 5     ? 6
                                 : 7;
    return code | (signbit(x) ? 8 : 0);
}

__global__ void __launch_bounds__(THREADS) nvfp4_kernel(zoe_cuda_four_bits p) {
    float global = *p.global;
    LOOP(group, p.count / p.group) {
        int64_t from = group * p.group;
        uint8_t code =
            (uint8_t)to_narrow(largest_of(p.x, p.x_type, from, p.group), 0, scale_of(6.0f * global), ZOE_F8_E4M3);
        narrow_scale s = scale_of(from_e4m3(code) * global);
        ((uint8_t *)p.scales)[group] = code;
        for (int i = 0; i < p.group; i += 2) {
            uint32_t low = to_e2m1(quantised(load_any(p.x, p.x_type, from + i), s, 6)),
                     high = to_e2m1(quantised(load_any(p.x, p.x_type, from + i + 1), s, 6));
            ((uint8_t *)p.data)[(from + i) / 2] = (uint8_t)(low | high << 4);
        }
    }
}

cudaError_t zoe_cuda_launch_four_bits(const zoe_cuda_four_bits *p, cudaStream_t stream) {
    if (p->count <= 0) return cudaSuccess;
    unsigned blocks = blocks_for(p->count / p->group);
    if (p->type == ZOE_I4) {
        int4_kernel<<<blocks, THREADS, 0, stream>>>(*p);
        return cudaGetLastError();
    }
    cudaError_t error = cudaMemsetAsync(p->global, 0, sizeof *p->global, stream);
    if (error != cudaSuccess) return error;
    largest_kernel<<<blocks_for(p->count / 64), THREADS, 0, stream>>>((uint32_t *)p->global, p->x, p->x_type, p->count);
    global_scale_kernel<<<1, 1, 0, stream>>>(p->global);
    nvfp4_kernel<<<blocks, THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

/* ---- widened ---- */

__device__ __forceinline__ float from_e2m1(uint32_t code) {
    float a =
        (code & 6) == 0 ? 0.5f * (float)(code & 1) : __uint_as_float(((code >> 1 & 3) + 126) << 23 | (code & 1) << 22);
    return code & 8 ? -a : a;
}

/* Eight elements a thread; a group is a multiple of eight. */
template <typename T> __global__ void __launch_bounds__(THREADS) widen_four_bits_kernel(T *y, zoe_cuda_four_bits p) {
    float global = p.type == ZOE_I4 ? 1 : *p.global;
    LOOP(i, p.count / 8) {
        int64_t group = i * 8 / p.group;
        uint32_t codes = ((const uint32_t *)p.data)[i];
        float scale = p.type == ZOE_I4 ? __half2float(((const __half *)p.scales)[group])
                                       : from_e4m3(((const uint8_t *)p.scales)[group]) * global;
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t code = codes >> 4 * j & 15;
            v[j] = (p.type == ZOE_I4 ? (float)((int)(code ^ 8) - 8) : from_e2m1(code)) * scale;
        }
        store8(y + i * 8, v);
    }
}

cudaError_t zoe_cuda_launch_widen_four_bits(void *y, int y_type, const zoe_cuda_four_bits *p, cudaStream_t stream) {
    if (p->count <= 0) return cudaSuccess;
    if (y_type == ZOE_BF16)
        widen_four_bits_kernel<<<blocks_for(p->count / 8), THREADS, 0, stream>>>((bf16 *)y, *p);
    else
        widen_four_bits_kernel<<<blocks_for(p->count / 8), THREADS, 0, stream>>>((float *)y, *p);
    return cudaGetLastError();
}

/* Codes of int8 or fp8 as bf16, which has all of them; sixteen a thread. */
__global__ void __launch_bounds__(THREADS) widen_kernel(bf16 *y, const uint8_t *x, int type, int64_t count) {
    LOOP(i, count / 16) {
        uint4 raw = ((const uint4 *)x)[i];
        uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        float v[16];
#pragma unroll
        for (int j = 0; j < 16; j++) {
            uint8_t code = (uint8_t)(words[j / 4] >> (j % 4 * 8));
            v[j] = type == ZOE_I8 ? (float)(int8_t)code : from_e4m3(code);
        }
        store8(y + i * 16, v);
        store8(y + i * 16 + 8, v + 8);
    }
}

cudaError_t zoe_cuda_launch_widen(void *y, const void *x, int type, int64_t count, cudaStream_t stream) {
    if (count <= 0) return cudaSuccess;
    widen_kernel<<<blocks_for(count / 16), THREADS, 0, stream>>>((bf16 *)y, (const uint8_t *)x, type, count);
    return cudaGetLastError();
}
