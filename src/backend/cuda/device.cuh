/* What kernels share: numbers of any float type, activations, sums over threads. */
#ifndef ZOE_BACKEND_CUDA_DEVICE_CUH
#define ZOE_BACKEND_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "backend/cuda/kernels.h"

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float to_float(float x) {
    return x;
}

__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}

__device__ __forceinline__ void from_float(float *to, float x) {
    *to = x;
}

__device__ __forceinline__ void from_float(bf16 *to, float x) {
    *to = __float2bfloat16_rn(x);
}

/* Element `i` of an array whose type is known at run time. */
__device__ __forceinline__ float load_any(const void *data, int type, int64_t i) {
    if (type == ZOE_F32) return ((const float *)data)[i];
    if (type == ZOE_BF16) return __bfloat162float(((const bf16 *)data)[i]);
    return __half2float(((const __half *)data)[i]);
}

__device__ __forceinline__ void store_any(void *data, int type, int64_t i, float x) {
    if (type == ZOE_F32)
        ((float *)data)[i] = x;
    else if (type == ZOE_BF16)
        ((bf16 *)data)[i] = __float2bfloat16_rn(x);
    else
        ((__half *)data)[i] = __float2half_rn(x);
}

/* Eight numbers at a time; the address is a multiple of 16 bytes. */
__device__ __forceinline__ void load8(float *to, const float *from) {
    float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

__device__ __forceinline__ void load8(float *to, const bf16 *from) {
    uint4 raw = *(const uint4 *)from;
    uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

__device__ __forceinline__ void store8(float *to, const float *from) {
    ((float4 *)to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    ((float4 *)to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

__device__ __forceinline__ void store8(bf16 *to, const float *from) {
    *(uint4 *)to = make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]),
                              pack_bf16(from[6], from[7]));
}

__device__ __forceinline__ float activation(float x, int act) {
    if (act == ZOE_CUDA_ACT_SILU) return x / (1.0f + expf(-x));
    if (act == ZOE_CUDA_ACT_GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    if (act == ZOE_CUDA_ACT_GELU_ERF) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    return x;
}

/* Sum over aligned groups of LANES threads; 256 lanes are a whole block, whose threads must all call it. */
template <int LANES> __device__ __forceinline__ float group_sum(float x) {
#pragma unroll
    for (int step = (LANES < 32 ? LANES : 32) / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    if (LANES > 32) {
        __shared__ float parts[LANES > 32 ? LANES / 32 : 1];
        __syncthreads(); /* the sums of the call before were read */
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
        x = 0;
#pragma unroll
        for (int i = 0; i < LANES / 32; i++) x += parts[i];
    }
    return x;
}

static inline size_t zoe_cuda_type_size(int type) {
    return type == ZOE_F32 ? 4 : 2;
}

static inline bool aligned16(const void *ptr) {
    return (uintptr_t)ptr % 16 == 0;
}

#endif
