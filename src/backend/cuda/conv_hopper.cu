/*
 * Convolution as an implicit matrix product on Hopper's wgmma, for what does not come in boxes (conv_boxes.cu): two
 * warpgroups of 64 or 128 pixels share a tile of weights.
 * All threads fetch; while the matrix units work on one stage, the one before is free to be fetched into.
 */
#include "backend/cuda/conv.cuh"
#include "backend/cuda/wgmma.cuh"

#define THREADS 256

/* Rows of 64 channels, 128 bytes. */
__device__ __forceinline__ uint32_t tile_at(uint32_t base, int row, int piece) {
    return base + (uint32_t)(row * 128 + ((piece ^ (row & 7)) * 16));
}

/* Each warpgroup takes half of the rows, in tiles of 64. */
template <int ROWS, int COLS, int STAGES>
__global__ void __launch_bounds__(THREADS) conv_wgmma_kernel(zoe_cuda_convolution p) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    constexpr uint32_t a_size = ROWS * 128, stage_size = a_size + COLS * 128;
    constexpr int tiles = ROWS / 128;
    uint32_t base = shared_address(shared);
    int column0 = blockIdx.x * COLS, row0 = blockIdx.y * ROWS, frame = blockIdx.z;
    int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    conv_fetcher<ROWS, COLS, 8, THREADS> fetcher(p, frame, row0, column0);
    int steps = fetcher.steps;
    auto fetch = [&](int stage) {
        uint32_t a = base + stage * stage_size;
        fetcher.fetch(p, frame, a, a + a_size, tile_at);
    };

    float sum[tiles][COLS / 2];
#pragma unroll
    for (int j = 0; j < tiles; j++)
#pragma unroll
        for (int i = 0; i < COLS / 2; i++) sum[j][i] = 0;

#pragma unroll
    for (int s = 0; s < STAGES - 2; s++) {
        if (s < steps) fetch(s);
        cp_async_commit();
    }
    for (int s = 0; s < steps; s++) {
        cp_async_wait<STAGES - 3>();
        fence_async();
        __syncthreads();
        uint32_t a_tile = base + s % STAGES * stage_size + group * tiles * 64 * 128,
                 b_tile = base + s % STAGES * stage_size + a_size;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int j = 0; j < tiles; j++)
                wgmma_bf16<COLS>(sum[j], wgmma_tile(a_tile + j * 64 * 128 + k * 32), wgmma_tile(b_tile + k * 32));
        wgmma_commit();
        /* The stage before the one before was left by both groups ahead of the barrier: its place takes what comes next. */
        wgmma_wait<1>();
        if (s + STAGES - 2 < steps) fetch((s + STAGES - 2) % STAGES);
        cp_async_commit();
    }
    wgmma_wait<0>();

    float *result = (float *)shared;
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < tiles; i++)
#pragma unroll
        for (int j = 0; j < COLS / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = (group * tiles + i) * 64 + warp * 16 + lane / 4 + half * 8, n = j * 8 + lane % 4 * 2;
                *(float2 *)(result + row * (COLS + 4) + n) =
                    make_float2(sum[i][4 * j + 2 * half], sum[i][4 * j + 2 * half + 1]);
            }
    __syncthreads();
    conv_write<ROWS, COLS, THREADS, COLS + 4>(p, result, frame, column0, threadIdx.x,
                                              [&](int row) { return pixel_place(p, row0, row); });
#endif
}

template <int ROWS, int COLS, int STAGES> static cudaError_t launch(const zoe_cuda_convolution *p, cudaStream_t stream) {
    int stages = STAGES * (ROWS + COLS) * 128, result = ROWS * (COLS + 4) * 4, bytes = stages > result ? stages : result;
    auto kernel = conv_wgmma_kernel<ROWS, COLS, STAGES>;
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    int64_t pixels = (int64_t)p->out_height * p->out_width;
    dim3 grid((unsigned)((p->out + COLS - 1) / COLS), (unsigned)((pixels + ROWS - 1) / ROWS), (unsigned)p->out_frames);
    kernel<<<grid, THREADS, bytes, stream>>>(*p);
    return cudaGetLastError();
}

/* The tiles that were fastest on the decoders' layers: two small blocks on a processor, or one with many products a byte.
 */
cudaError_t zoe_cuda_launch_conv_hopper(const zoe_cuda_convolution *p, cudaStream_t stream) {
    if (p->out == 192 || p->out <= 96) return launch<128, 96, 4>(p, stream);
    if (p->out % 192 == 0) return launch<128, 192, 5>(p, stream);
    return launch<256, 128, 4>(p, stream);
}
