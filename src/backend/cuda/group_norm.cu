/*
 * Group norm over [frames, height, width, channels]: sums of every channel over fixed parts of the pixels, folded into
 * mean, factor and shift of each channel, then one pass over everything.
 */
#include "backend/cuda/device.cuh"

#define THREADS 256
#define PARTS   ZOE_CUDA_GROUP_PARTS
#define WARPS   (THREADS / 32)

/* sums [PARTS, 2, channels]: a block takes 32 channels of a part. */
__global__ void __launch_bounds__(THREADS) group_sums_kernel(zoe_cuda_group_norm p, double *sums) {
    __shared__ double partial[2][WARPS][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.y * 32 + lane;
    int64_t first = p.rows * blockIdx.x / PARTS, end = p.rows * (blockIdx.x + 1) / PARTS;
    double sum = 0, squares = 0; /* double: the two are subtracted in the end */
    for (int64_t row = first + warp; row < end && channel < p.channels; row += WARPS) {
        double x = load_any(p.x, p.type, row * p.channels + channel);
        sum += x, squares += x * x;
    }
    partial[0][warp][lane] = sum, partial[1][warp][lane] = squares;
    __syncthreads();
    if (warp > 1 || channel >= p.channels) return;
    double total = 0;
    for (int i = 0; i < WARPS; i++) total += partial[warp][i][lane];
    sums[((int64_t)blockIdx.x * 2 + warp) * p.channels + channel] = total;
}

/* norm(x) * weight + bias as (x - mean) * factor + shift; affine: mean, factor and shift [3, channels]. A block takes a
 * group. */
__global__ void __launch_bounds__(THREADS) group_fold_kernel(zoe_cuda_group_norm p, const double *sums, float *affine) {
    __shared__ double partial[2][THREADS];
    int size = p.channels / p.groups, start = blockIdx.x * size;
    double sum = 0, squares = 0;
    for (int i = threadIdx.x; i < PARTS * size; i += THREADS) {
        int64_t at = (int64_t)(i / size) * 2 * p.channels + start + i % size;
        sum += sums[at], squares += sums[at + p.channels];
    }
    partial[0][threadIdx.x] = sum, partial[1][threadIdx.x] = squares;
    for (int step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x >= step) continue;
        partial[0][threadIdx.x] += partial[0][threadIdx.x + step];
        partial[1][threadIdx.x] += partial[1][threadIdx.x + step];
    }
    __syncthreads();
    double count = (double)p.rows * size, mean = partial[0][0] / count;
    double variance = fmax(partial[1][0] / count - mean * mean, 0.0), scale = 1 / sqrt(variance + p.eps);
    for (int i = threadIdx.x; i < size; i += THREADS) {
        affine[start + i] = (float)mean;
        affine[p.channels + start + i] = (float)(scale * (p.weight ? p.weight[start + i] : 1));
        affine[2 * p.channels + start + i] = p.bias ? p.bias[start + i] : 0;
    }
}

__global__ void __launch_bounds__(THREADS) group_apply_kernel(zoe_cuda_group_norm p, const float *affine) {
    int64_t count = p.rows * p.channels, plane = (int64_t)p.height * p.width;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS) {
        int64_t row = i / p.channels;
        int channel = (int)(i - row * p.channels);
        float y =
            (load_any(p.x, p.type, i) - affine[channel]) * affine[p.channels + channel] + affine[2 * p.channels + channel];
        if (p.scale) {
            int frame = (int)(row / plane), pixel = (int)(row % plane), line = pixel / p.width, column = pixel % p.width;
            int from = p.first_apart ? (frame ? 1 + (frame - 1) * (p.map[0] - 1) / (p.frames - 1) : 0)
                                     : frame * p.map[0] / p.frames;
            int64_t cell =
                ((int64_t)from * p.map[1] + line / (p.height / p.map[1])) * p.map[2] + column / (p.width / p.map[2]);
            y = y * load_any(p.scale, p.type, cell * p.channels + channel) +
                load_any(p.shift, p.type, cell * p.channels + channel);
        }
        store_any(p.y, p.type, i, activation(y, p.act));
    }
}

cudaError_t zoe_cuda_launch_group_norm(const zoe_cuda_group_norm *p, double *sums, float *affine, cudaStream_t stream) {
    int64_t blocks = (p->rows * p->channels + THREADS - 1) / THREADS;
    if (blocks <= 0) return cudaSuccess;
    dim3 grid(PARTS, (unsigned)((p->channels + 31) / 32));
    group_sums_kernel<<<grid, THREADS, 0, stream>>>(*p, sums);
    group_fold_kernel<<<(unsigned)p->groups, THREADS, 0, stream>>>(*p, sums, affine);
    group_apply_kernel<<<(unsigned)(blocks < 1 << 20 ? blocks : 1 << 20), THREADS, 0, stream>>>(*p, affine);
    return cudaGetLastError();
}
