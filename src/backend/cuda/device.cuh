/* What kernels share: numbers of any float type, activations, sums over threads. */
#ifndef ZOE_BACKEND_CUDA_DEVICE_CUH
#define ZOE_BACKEND_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
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

__device__ __forceinline__ void load8(float *to, const int32_t *from) {
    int4 a = ((const int4 *)from)[0], b = ((const int4 *)from)[1];
    to[0] = (float)a.x, to[1] = (float)a.y, to[2] = (float)a.z, to[3] = (float)a.w;
    to[4] = (float)b.x, to[5] = (float)b.y, to[6] = (float)b.z, to[7] = (float)b.w;
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

__device__ __forceinline__ uint32_t pack_half(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
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

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float activation(float x, int act) {
    if (act == ZOE_CUDA_ACT_SILU) return x / (1.0f + expf(-x));
    if (act == ZOE_CUDA_ACT_GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    if (act == ZOE_CUDA_ACT_GELU_ERF) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    return x;
}

__device__ __forceinline__ float inverse_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/*
 * The same of COUNT elements for results that are written as T: bf16 keeps 8 bits of what quick instructions have at least
 * 20 of. Which activation it is stands outside of the loops, so that elements are worked on side by side.
 */
template <typename T, int COUNT> __device__ __forceinline__ void activate_for(float (&x)[COUNT], int act) {
    if (sizeof(T) == 2 && act == ZOE_CUDA_ACT_SILU) { /* x / (1 + e^-x) */
#pragma unroll
        for (int j = 0; j < COUNT; j++) x[j] *= inverse_fast(1.0f + exp2_fast(-1.4426950f * x[j]));
    } else if (sizeof(T) == 2 && act == ZOE_CUDA_ACT_GELU_TANH) { /* x / (1 + e^-2u), of which the tanh is of u */
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            x[j] *= inverse_fast(1.0f + exp2_fast(x[j] * fmaf(-0.10294324f, x[j] * x[j], -2.3022082f)));
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; j++) x[j] = activation(x[j], act);
    }
}

/* ---- quantisation: the same bits as on the CPU ---- */

/* A scale and what stands in for dividing by it. */
struct narrow_scale {
    float scale, inverse;
};

__device__ __forceinline__ narrow_scale scale_of(float scale) {
    return {scale, scale != 0 ? 1.0f / scale : 0.0f};
}

/* The scale of a row of int8 or fp8. */
__device__ __forceinline__ narrow_scale scale_for(float largest, int type) {
    return scale_of(largest / (type == ZOE_I8 ? 127.0f : ZOE_CUDA_E4M3_MAX));
}

/* x / scale within -limit .. limit; a NaN counts as `limit`. The quotient's remainder makes it exact (Markstein). */
__device__ __forceinline__ float quantised(float x, narrow_scale s, float limit) {
    float value = x * s.inverse;
    value = copysignf(fmaf(fmaf(-value, s.scale, x), s.inverse, value), x);
    value = value < -limit ? -limit : value < limit ? value : limit;
    return s.inverse != 0 ? value : 0; /* also of an infinite scale */
}

/* Two elements of a row of int8 or fp8, without corrections: no larger than what the scale was made for. */
__device__ __forceinline__ uint32_t to_narrow_fast(float low, float high, narrow_scale s, int type) {
    low *= s.inverse, high *= s.inverse;
    if (type == ZOE_I8) return ((uint32_t)__float2int_rn(low) & 0xff) | ((uint32_t)__float2int_rn(high) & 0xff) << 8;
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

/* Two elements of a row of int8 or fp8. */
__device__ __forceinline__ uint32_t to_narrow(float low, float high, narrow_scale s, int type) {
    if (type == ZOE_I8)
        return ((uint32_t)__float2int_rn(quantised(low, s, 127)) & 0xff) |
               ((uint32_t)__float2int_rn(quantised(high, s, 127)) & 0xff) << 8;
    float2 pair = make_float2(quantised(low, s, ZOE_CUDA_E4M3_MAX), quantised(high, s, ZOE_CUDA_E4M3_MAX));
    return __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ float from_e4m3(uint8_t code) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
}

/* The larger magnitude, where a NaN is larger than all: the bits of magnitudes are in their order. */
__device__ __forceinline__ float larger(float a, float b) {
    uint32_t x = __float_as_uint(a) & 0x7fffffff, y = __float_as_uint(b) & 0x7fffffff;
    return __uint_as_float(x > y ? x : y);
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

/* The largest magnitude likewise. */
template <int LANES> __device__ __forceinline__ float group_largest(float x) {
#pragma unroll
    for (int step = (LANES < 32 ? LANES : 32) / 2; step > 0; step /= 2)
        x = larger(x, __shfl_xor_sync(0xffffffffu, x, step));
    if (LANES > 32) {
        __shared__ float parts[LANES > 32 ? LANES / 32 : 1];
        __syncthreads(); /* the results of the call before were read */
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < LANES / 32; i++) x = larger(x, parts[i]);
    }
    return x;
}

/* Quotients of numbers below 2^31 by one number: (i + i * factor / 2^32) >> shift (Granlund and Montgomery). */
typedef struct zoe_cuda_divisor {
    uint32_t factor, shift;
} zoe_cuda_divisor;

static inline zoe_cuda_divisor zoe_cuda_divisor_of(int64_t number) {
    zoe_cuda_divisor d = {0, 0};
    while ((int64_t)1 << d.shift < number) d.shift++;
    d.factor = (uint32_t)((((int64_t)1 << d.shift) - number) * ((int64_t)1 << 32) / number + 1);
    return d;
}

__device__ __forceinline__ uint32_t divide(uint32_t i, zoe_cuda_divisor d) {
    return (__umulhi(i, d.factor) + i) >> d.shift;
}

static inline size_t zoe_cuda_type_size(int type) {
    return type == ZOE_F32 || type == ZOE_I32 ? 4 : type == ZOE_I8 || type == ZOE_F8_E4M3 ? 1 : 2;
}

static inline bool aligned16(const void *ptr) {
    return (uintptr_t)ptr % 16 == 0;
}

#endif
