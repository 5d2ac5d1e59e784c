/* The warpgroup matrix instructions of sm_90a. */
#ifndef ZOE_BACKEND_CUDA_WGMMA_CUH
#define ZOE_BACKEND_CUDA_WGMMA_CUH

#include <stdint.h>

/* Rows of 128 bytes in shared memory, swizzled: 16-byte piece c of row r at piece c ^ (r % 8); tiles at multiples of 1024.
 */
__device__ __forceinline__ uint64_t wgmma_tile(uint32_t address) {
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* The tile `bytes` further on. Its place is in the low word alone, which saves the carry. */
__device__ __forceinline__ uint64_t wgmma_step(uint64_t tile, uint32_t bytes) {
    return (tile & 0xffffffff00000000) | (uint32_t)((uint32_t)tile + (bytes >> 4));
}

/* The same for rows of 64 bytes: piece c of row r at piece c ^ (r / 2 % 4). */
__device__ __forceinline__ uint64_t wgmma_narrow_tile(uint32_t address) {
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(512 >> 4) << 32 | (uint64_t)2 << 62;
}

__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Makes this thread's writes to shared memory visible to the matrix unit, once a barrier follows. */
__device__ __forceinline__ void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define ZOE_F8_OPERANDS(d, i)                                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),            \
        "+f"(d[i + 7])
#define ZOE_F32_OPERANDS(d, i)                                                                                             \
    ZOE_F8_OPERANDS(d, i), ZOE_F8_OPERANDS(d, i + 8), ZOE_F8_OPERANDS(d, i + 16), ZOE_F8_OPERANDS(d, i + 24)

/* d[64, COLS] += a[64, 16] b[COLS, 16]^T, of bf16 tiles in shared memory. */
template <int COLS> __device__ __forceinline__ void wgmma_bf16(float (&d)[COLS / 2], uint64_t a, uint64_t b);

template <> __device__ __forceinline__ void wgmma_bf16<16>(float (&d)[8], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "%8, %9, 1, 1, 1, 0, 0;"
                 : ZOE_F8_OPERANDS(d, 0)
                 : "l"(a), "l"(b));
}

template <> __device__ __forceinline__ void wgmma_bf16<48>(float (&d)[24], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23}, "
                 "%24, %25, 1, 1, 1, 0, 0;"
                 : ZOE_F8_OPERANDS(d, 0), ZOE_F8_OPERANDS(d, 8), ZOE_F8_OPERANDS(d, 16)
                 : "l"(a), "l"(b));
}

template <> __device__ __forceinline__ void wgmma_bf16<96>(float (&d)[48], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                 "%48, %49, 1, 1, 1, 0, 0;"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F8_OPERANDS(d, 32), ZOE_F8_OPERANDS(d, 40)
                 : "l"(a), "l"(b));
}

template <> __device__ __forceinline__ void wgmma_bf16<128>(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, 1, 1, 1, 0, 0;"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F32_OPERANDS(d, 32)
                 : "l"(a), "l"(b));
}

template <> __device__ __forceinline__ void wgmma_bf16<192>(float (&d)[96], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                 "%96, %97, 1, 1, 1, 0, 0;"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F32_OPERANDS(d, 32), ZOE_F32_OPERANDS(d, 64)
                 : "l"(a), "l"(b));
}

#define ZOE_S8_OPERANDS(d, i)                                                                                              \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]),            \
        "+r"(d[i + 7])
#define ZOE_S32_OPERANDS(d, i)                                                                                             \
    ZOE_S8_OPERANDS(d, i), ZOE_S8_OPERANDS(d, i + 8), ZOE_S8_OPERANDS(d, i + 16), ZOE_S8_OPERANDS(d, i + 24)

/* d[64, 128] = a[64, 32] b[128, 32]^T (+ d), of int8 tiles in shared memory. */
__device__ __forceinline__ void wgmma_s8(int (&d)[64], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, add;\n"
                 "}"
                 : ZOE_S32_OPERANDS(d, 0), ZOE_S32_OPERANDS(d, 32)
                 : "l"(a), "l"(b), "r"((int)add));
}

/* d[64, COLS] = a[64, 32] b[COLS, 32]^T (+ d), of e4m3; a in registers, b in shared memory. */
template <int COLS>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[COLS / 2], const uint32_t *a, uint64_t b, bool add);

template <> __device__ __forceinline__ void wgmma_e4m3<64>(float (&d)[32], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, add, 1, 1;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

template <> __device__ __forceinline__ void wgmma_e4m3<128>(float (&d)[64], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, add, 1, 1;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F32_OPERANDS(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

/* A tile whose rows of 128 bytes run along the depth: 64 columns, the next 64 `apart` bytes on. */
__device__ __forceinline__ uint64_t wgmma_standing_tile(uint32_t address, uint32_t apart) {
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(apart >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* d[64, COLS] = a[64, 16] b[COLS, 16]^T (+ d), of bf16 tiles in shared memory. */
template <int COLS> __device__ __forceinline__ void wgmma_bf16_to(float (&d)[COLS / 2], uint64_t a, uint64_t b, bool add);

template <> __device__ __forceinline__ void wgmma_bf16_to<48>(float (&d)[24], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %26, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23}, "
                 "%24, %25, add, 1, 1, 0, 0;\n"
                 "}"
                 : ZOE_F8_OPERANDS(d, 0), ZOE_F8_OPERANDS(d, 8), ZOE_F8_OPERANDS(d, 16)
                 : "l"(a), "l"(b), "r"((int)add));
}

template <> __device__ __forceinline__ void wgmma_bf16_to<80>(float (&d)[40], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %42, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39}, "
                 "%40, %41, add, 1, 1, 0, 0;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F8_OPERANDS(d, 32)
                 : "l"(a), "l"(b), "r"((int)add));
}

template <> __device__ __forceinline__ void wgmma_bf16_to<96>(float (&d)[48], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %50, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                 "%48, %49, add, 1, 1, 0, 0;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F8_OPERANDS(d, 32), ZOE_F8_OPERANDS(d, 40)
                 : "l"(a), "l"(b), "r"((int)add));
}

template <> __device__ __forceinline__ void wgmma_bf16_to<128>(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, add, 1, 1, 0, 0;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F32_OPERANDS(d, 32)
                 : "l"(a), "l"(b), "r"((int)add));
}

/* d[64, COLS] = a[64, 16] b[16, COLS] (+ d), of bf16; a in registers, b a standing tile in shared memory. */
template <int COLS>
__device__ __forceinline__ void wgmma_bf16_standing(float (&d)[COLS / 2], const uint32_t *a, uint64_t b, bool add);

template <>
__device__ __forceinline__ void wgmma_bf16_standing<64>(float (&d)[32], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, add, 1, 1, 1;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

template <>
__device__ __forceinline__ void wgmma_bf16_standing<128>(float (&d)[64], const uint32_t *a, uint64_t b, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, add, 1, 1, 1;\n"
                 "}"
                 : ZOE_F32_OPERANDS(d, 0), ZOE_F32_OPERANDS(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

#endif
