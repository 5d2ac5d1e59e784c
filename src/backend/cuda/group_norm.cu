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

/* ---- channels in eights: a thread keeps to eight channels of every so many rows ---- */

/* sums [PARTS, 2, channels]: a block takes a part, `lanes` threads side by side one row of it. */
template <typename T>
__global__ void __launch_bounds__(THREADS) group_sums8_kernel(zoe_cuda_group_norm p, int lanes, double *sums) {
    extern __shared__ double partial[]; /* [rows at a time, 16, lanes] */
    int lane = threadIdx.x % lanes, line = threadIdx.x / lanes, lines = blockDim.x / lanes;
    int64_t first = p.rows * blockIdx.x / PARTS, end = p.rows * (blockIdx.x + 1) / PARTS;
    double sum[16] = {};
    for (int64_t row = first + line; row < end; row += 4 * lines) {
        float x[4][8]; /* on their way together */
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row + j * lines < end) load8(x[j], (const T *)p.x + (row + j * lines) * p.channels + lane * 8);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (row + j * lines >= end) break;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                double value = x[j][i];
                sum[i] += value, sum[8 + i] += value * value;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 16; i++) partial[(line * 16 + i) * lanes + lane] = sum[i];
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * lanes; i += blockDim.x) {
        double total = 0;
        for (int j = 0; j < lines; j++) total += partial[j * 16 * lanes + i];
        int which = i / lanes; /* of the eight channels, then of their squares */
        sums[((int64_t)blockIdx.x * 2 + which / 8) * p.channels + i % lanes * 8 + which % 8] = total;
    }
}

/* First value of the maps' cell that a row takes. by: pixels of a frame, of a line, lines and columns of a cell. */
struct cell_divisors {
    zoe_cuda_divisor frame, line, cell[2];
};

__device__ __forceinline__ int64_t cell_of(const zoe_cuda_group_norm &p, const cell_divisors &by, uint32_t row) {
    int frame = divide(row, by.frame), pixel = row - frame * p.height * p.width;
    int line = divide(pixel, by.line), column = pixel - line * p.width;
    int from = frame * p.map[0] / p.frames;
    if (p.first_apart) from = frame ? 1 + (frame - 1) * (p.map[0] - 1) / (p.frames - 1) : 0;
    return ((int64_t)(from * p.map[1] + divide(line, by.cell[0])) * p.map[2] + divide(column, by.cell[1])) * p.channels;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    group_apply8_kernel(zoe_cuda_group_norm p, cell_divisors by, int lanes, const float *affine) {
    int channel = threadIdx.x % lanes * 8, lines = blockDim.x / lanes;
    float mean[8], factor[8], shift[8];
    load8(mean, affine + channel), load8(factor, affine + p.channels + channel),
        load8(shift, affine + 2 * p.channels + channel);
    for (int64_t row = (int64_t)blockIdx.x * lines + threadIdx.x / lanes; row < p.rows; row += (int64_t)gridDim.x * lines) {
        float x[8], times[8], plus[8];
        load8(x, (const T *)p.x + row * p.channels + channel);
        if (p.scale) {
            int64_t cell = cell_of(p, by, (uint32_t)row) + channel;
            load8(times, (const T *)p.scale + cell), load8(plus, (const T *)p.shift + cell);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float y = (x[i] - mean[i]) * factor[i] + shift[i];
            x[i] = p.scale ? y * times[i] + plus[i] : y;
        }
        activate_for<T>(x, p.act);
        store8((T *)p.y + row * p.channels + channel, x);
    }
}

static bool in_eights(const zoe_cuda_group_norm *p, const float *affine) {
    return (p->type == ZOE_F32 || p->type == ZOE_BF16) && p->channels % 8 == 0 && p->channels <= 8 * THREADS &&
           p->rows <= INT32_MAX && aligned16(p->x) && aligned16(p->y) && aligned16(p->scale) && aligned16(p->shift) &&
           aligned16(affine);
}

template <typename T>
static cudaError_t launch_in_eights(const zoe_cuda_group_norm *p, double *sums, float *affine, cudaStream_t stream) {
    int lanes = p->channels / 8, lines = THREADS / lanes, threads = lines * lanes;
    int64_t blocks = (p->rows + lines - 1) / lines;
    group_sums8_kernel<T><<<PARTS, threads, (size_t)threads * 16 * sizeof *sums, stream>>>(*p, lanes, sums);
    group_fold_kernel<<<(unsigned)p->groups, THREADS, 0, stream>>>(*p, sums, affine);
    cell_divisors by = {};
    if (p->scale)
        by = {zoe_cuda_divisor_of((int64_t)p->height * p->width),
              zoe_cuda_divisor_of(p->width),
              {zoe_cuda_divisor_of(p->height / p->map[1]), zoe_cuda_divisor_of(p->width / p->map[2])}};
    group_apply8_kernel<T><<<(unsigned)(blocks < 1 << 14 ? blocks : 1 << 14), threads, 0, stream>>>(*p, by, lanes, affine);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_group_norm(const zoe_cuda_group_norm *p, double *sums, float *affine, cudaStream_t stream) {
    int64_t blocks = (p->rows * p->channels + THREADS - 1) / THREADS;
    if (blocks <= 0) return cudaSuccess;
    if (in_eights(p, affine))
        return p->type == ZOE_F32 ? launch_in_eights<float>(p, sums, affine, stream)
                                  : launch_in_eights<bf16>(p, sums, affine, stream);
    dim3 grid(PARTS, (unsigned)((p->channels + 31) / 32));
    group_sums_kernel<<<grid, THREADS, 0, stream>>>(*p, sums);
    group_fold_kernel<<<(unsigned)p->groups, THREADS, 0, stream>>>(*p, sums, affine);
    group_apply_kernel<<<(unsigned)(blocks < 1 << 20 ? blocks : 1 << 20), THREADS, 0, stream>>>(*p, affine);
    return cudaGetLastError();
}
