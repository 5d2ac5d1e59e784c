/*
 * Convolution over [frames, height, width, channels] as an implicit matrix product: bf16 on mma.sync (sm_80 and later; for
 * Hopper see conv_boxes.cu and conv_hopper.cu), anything else, and input channels that are no multiple of eight, on a plain
 * kernel.
 */
#include "backend/cuda/conv.cuh"

/* ---- mma.sync ---- */

#define ROWS    128 /* output pixels of a block */
#define STAGES  4
#define THREADS 128

/* Rows of 32 channels, 64 bytes: 16-byte piece c of row r lies at piece c ^ (r / 2 % 4). */
__device__ __forceinline__ uint32_t tile_at(uint32_t base, int row, int piece) {
    return base + (uint32_t)(row * 64 + ((piece ^ (row >> 1 & 3)) * 16));
}

/* Four warps, each with 64 pixels by half of the columns. */
template <int COLS> __global__ void __launch_bounds__(THREADS) conv_mma_kernel(zoe_cuda_convolution p) {
    extern __shared__ __align__(128) char shared[];
    constexpr int tiles = COLS / 16; /* of eight columns in a warp */
    constexpr uint32_t a_size = ROWS * 64, stage_size = a_size + COLS * 64;
    uint32_t base = shared_address(shared);
    int column0 = blockIdx.x * COLS, row0 = blockIdx.y * ROWS, frame = blockIdx.z;
    int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 % 2, warp_column = threadIdx.x / 64;
    conv_fetcher<ROWS, COLS, 4, THREADS> fetcher(p, frame, row0, column0);
    int steps = fetcher.steps;
    auto fetch = [&](int stage) {
        uint32_t a = base + stage * stage_size;
        fetcher.fetch(p, frame, a, a + a_size, tile_at);
    };

    float sum[4][tiles][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < tiles; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sum[i][j][k] = 0;

#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) fetch(s);
        cp_async_commit();
    }
    for (int s = 0; s < steps; s++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < steps) fetch((s + STAGES - 1) % STAGES);
        cp_async_commit();
        uint32_t a_tile = base + s % STAGES * stage_size, b_tile = a_tile + a_size;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t a[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                ldmatrix(a[i], tile_at(a_tile, warp_row * 64 + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int j = 0; j < tiles / 2; j++) {
                uint32_t b[4];
                int n = warp_column * (COLS / 2) + j * 16 + lane % 8 + lane / 16 * 8;
                ldmatrix(b, tile_at(b_tile, n, 2 * k + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    mma_bf16(sum[i][2 * j], a[i], b[0], b[1]);
                    mma_bf16(sum[i][2 * j + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    float *result = (float *)shared;
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < tiles; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = warp_row * 64 + i * 16 + lane / 4 + half * 8, n = warp_column * (COLS / 2) + j * 8 + lane % 4 * 2;
                *(float2 *)(result + row * (COLS + 4) + n) = make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            }
    __syncthreads();
    conv_write<ROWS, COLS, THREADS, COLS + 4>(p, result, frame, column0, threadIdx.x,
                                              [&](int row) { return pixel_place(p, row0, row); });
}

template <int COLS> static cudaError_t launch_mma(const zoe_cuda_convolution *p, cudaStream_t stream) {
    int stages = STAGES * (ROWS + COLS) * 64, result = ROWS * (COLS + 4) * 4, bytes = stages > result ? stages : result;
    cudaError_t error = cudaFuncSetAttribute(conv_mma_kernel<COLS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    int64_t pixels = (int64_t)p->out_height * p->out_width;
    dim3 grid((unsigned)((p->out + COLS - 1) / COLS), (unsigned)((pixels + ROWS - 1) / ROWS), (unsigned)p->out_frames);
    conv_mma_kernel<COLS><<<grid, THREADS, bytes, stream>>>(*p);
    return cudaGetLastError();
}

/* ---- the plain kernel ---- */

#define SIDE  64 /* pixels and channels of a block */
#define SLICE 16

/* A thread sums four pixels by four channels. */
template <typename T> __global__ void __launch_bounds__(256) conv_plain_kernel(zoe_cuda_convolution p) {
    __shared__ float a[SLICE][SIDE + 1], b[SLICE][SIDE + 1];
    int pixels = p.out_height * p.out_width, row0 = blockIdx.y * SIDE, column0 = blockIdx.x * SIDE, frame = blockIdx.z;
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16, shift = p.upsample == 2;
    int depth = p.kernel[0] * p.kernel[1] * p.kernel[2] * p.in;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += SLICE) {
        int k = k0 + tx, channel = k % p.in, tap = k / p.in;
        int w = tap % p.kernel[2], h = tap / p.kernel[2] % p.kernel[1], t = tap / p.kernel[2] / p.kernel[1];
        const T *from = k < depth ? input_frame<T>(p, frame, t) : NULL;
        for (int i = ty; i < SIDE; i += 16) {
            int pixel = row0 + i, n = column0 + i;
            int y = pixel / p.out_width * p.stride[1] - p.pad[1] + h, x = pixel % p.out_width * p.stride[2] - p.pad[2] + w;
            bool there = from && pixel < pixels && y >= 0 && y < p.height << shift && x >= 0 && x < p.width << shift;
            int64_t offset = ((int64_t)(y >> shift) * p.width + (x >> shift)) * p.in + channel;
            a[tx][i] = there ? to_float(from[offset]) : 0;
            b[tx][i] = k < depth && n < p.out ? load_any(p.w, p.w_type, (int64_t)n * depth + k) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SLICE; i++)
#pragma unroll
            for (int row = 0; row < 4; row++)
#pragma unroll
                for (int column = 0; column < 4; column++) sum[row][column] += a[i][ty + 16 * row] * b[i][tx + 16 * column];
        __syncthreads();
    }
    for (int row = 0; row < 4; row++)
        for (int column = 0; column < 4; column++) {
            int pixel = row0 + ty + 16 * row, n = column0 + tx + 16 * column;
            if (pixel >= pixels || n >= p.out) continue;
            int64_t to = ((int64_t)frame * pixels + pixel) * p.out + n;
            float v = sum[row][column] + (p.bias ? p.bias[n] : 0);
            if (p.residual)
                v += to_float(((const T *)p.residual)[residual_at(p, frame, pixel / p.out_width, pixel % p.out_width, n)]);
            from_float((T *)p.y + to, v);
        }
}

template <typename T> static cudaError_t launch_plain(const zoe_cuda_convolution *p, cudaStream_t stream) {
    int64_t pixels = (int64_t)p->out_height * p->out_width;
    dim3 grid((unsigned)((p->out + SIDE - 1) / SIDE), (unsigned)((pixels + SIDE - 1) / SIDE), (unsigned)p->out_frames);
    conv_plain_kernel<T><<<grid, 256, 0, stream>>>(*p);
    return cudaGetLastError();
}

static bool fits_mma(const zoe_cuda_convolution *p) {
    const void *pointers[] = {p->x, p->w, p->history, p->residual, p->y};
    if (p->type != ZOE_BF16 || p->w_type != ZOE_BF16 || p->in % 8) return false;
    for (int i = 0; i < 5; i++)
        if (!aligned16(pointers[i])) return false;
    for (int i = 0; i < 3; i++)
        if (p->out % 8 == 0 && p->residual_stride[i] % 8) return false;
    return p->history_stride % 8 == 0;
}

cudaError_t zoe_cuda_launch_conv(const zoe_cuda_convolution *p, int level, cudaStream_t stream) {
    if (fits_mma(p)) {
        if (level == 90 && zoe_cuda_conv_in_boxes(p)) return zoe_cuda_launch_conv_boxes(p, stream);
        if (level == 90 && p->out > 32) return zoe_cuda_launch_conv_hopper(p, stream);
        if (p->out <= 32) return launch_mma<32>(p, stream);
        return p->out % 96 == 0 ? launch_mma<96>(p, stream) : launch_mma<128>(p, stream);
    }
    return p->type == ZOE_F32 ? launch_plain<float>(p, stream) : launch_plain<bf16>(p, stream);
}
