/*
 * What the convolution kernels on matrix units share. Rows of the product are output pixels of one frame, columns output
 * channels; the depth runs over the kernel's taps and, within a tap, over the input channels: as the weights lie in memory.
 */
#ifndef ZOE_BACKEND_CUDA_CONV_CUH
#define ZOE_BACKEND_CUDA_CONV_CUH

#include "backend/cuda/device.cuh"
#include "backend/cuda/mma.cuh"

/* Input frame for output frame `frame` and kernel tap `tap` in time; NULL where it is zero. */
template <typename T> __device__ __forceinline__ const T *input_frame(const zoe_cuda_convolution &p, int frame, int tap) {
    int64_t plane = (int64_t)p.height * p.width * p.in;
    int at = frame * p.stride[0] + tap - p.pad[0];
    if (at < 0 || at >= p.before + p.frames) return NULL;
    return at < p.before ? (const T *)p.history + at * p.history_stride : (const T *)p.x + (at - p.before) * plane;
}

/*
 * One thread's part of fetching tiles of ROWS pixels by COLS channels, PIECES pieces of eight deep: always the same piece
 * of every STEP-th row. Padding, carried frames, strides and upsampling are resolved here; nothing is unfolded in memory.
 * What a step needs is kept as offsets that change with the kernel's tap alone: with few warps on a processor, the time of
 * a step is the length of this code.
 */
template <int ROWS, int COLS, int PIECES, int THREADS> struct conv_fetcher {
    static constexpr int STEP = THREADS / PIECES, A = ROWS / STEP, B = (COLS + STEP - 1) / STEP;
    int line[A], column[A];     /* of the pixels' first tap */
    int pixel[A];               /* elements from the frame's start at the present tap; negative: zeros */
    int weight[B];              /* elements to the row's weights; negative: none */
    int t, h, w, channel, last; /* where the piece is; `last`: the time tap behind the end */
    int steps, k;               /* k: this tap's place in a row of weights */
    const bf16 *from;           /* the present tap's frame */

    __device__ __forceinline__ void enter_tap(const zoe_cuda_convolution &p, int frame) {
        int shift = p.upsample == 2;
        from = t < last ? input_frame<bf16>(p, frame, t) : NULL;
        k = ((t * p.kernel[1] + h) * p.kernel[2] + w) * p.in;
#pragma unroll
        for (int i = 0; i < A; i++) {
            int y = line[i] + h, x = column[i] + w;
            bool there = from && (unsigned)y < (unsigned)(p.height << shift) && (unsigned)x < (unsigned)(p.width << shift);
            pixel[i] = there ? ((y >> shift) * p.width + (x >> shift)) * p.in : -1;
        }
    }

    __device__ __forceinline__ void next_tap(const zoe_cuda_convolution &p) {
        if (++w < p.kernel[2]) return;
        w = 0;
        if (++h < p.kernel[1]) return;
        h = 0;
        t++;
    }

    __device__ __forceinline__ conv_fetcher(const zoe_cuda_convolution &p, int frame, int row0, int column0) {
        int depth = p.kernel[0] * p.kernel[1] * p.kernel[2] * p.in;
#pragma unroll
        for (int i = 0; i < A; i++) {
            int at = row0 + threadIdx.x / PIECES + STEP * i;
            bool there = at < p.out_height * p.out_width;
            line[i] = there ? at / p.out_width * p.stride[1] - p.pad[1] : -(1 << 28);
            column[i] = at % p.out_width * p.stride[2] - p.pad[2];
        }
#pragma unroll
        for (int i = 0; i < B; i++) {
            int n = threadIdx.x / PIECES + STEP * i;
            weight[i] = n < COLS && column0 + n < p.out ? (column0 + n) * depth : -1;
        }
        /* Frames of zeros at either end are left out. */
        t = 0, h = 0, w = 0, last = p.kernel[0];
        while (t < last && !input_frame<bf16>(p, frame, t)) t++;
        while (t < last && !input_frame<bf16>(p, frame, last - 1)) last--;
        steps = ((last - t) * p.kernel[1] * p.kernel[2] * p.in + PIECES * 8 - 1) / (PIECES * 8);
        for (channel = threadIdx.x % PIECES * 8; channel >= p.in; channel -= p.in) next_tap(p);
        enter_tap(p, frame);
    }

    /* Fetches the next slice of the depth; `at` gives the shared address of a row and piece of a tile. */
    template <typename AT>
    __device__ __forceinline__ void fetch(const zoe_cuda_convolution &p, int frame, uint32_t a, uint32_t b, AT at) {
        int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const bf16 *zeros = (const bf16 *)p.w, *x = from + channel, *weights = zeros + k + channel;
#pragma unroll
        for (int i = 0; i < A; i++)
            cp_async16(at(a, row + STEP * i, piece), pixel[i] >= 0 ? x + pixel[i] : zeros, pixel[i] >= 0);
#pragma unroll
        for (int i = 0; i < B; i++) {
            bool there = from && weight[i] >= 0;
            if (COLS % STEP == 0 || row + STEP * i < COLS)
                cp_async16(at(b, row + STEP * i, piece), there ? weights + weight[i] : zeros, there);
        }
        channel += PIECES * 8;
        if (channel < p.in) return;
        for (; channel >= p.in; channel -= p.in) next_tap(p);
        enter_tap(p, frame);
    }
};

/* Where the residual of an output channel lies. */
__device__ __forceinline__ int64_t residual_at(const zoe_cuda_convolution &p, int frame, int line, int column,
                                               int channel) {
    return frame * p.residual_stride[0] + line * p.residual_stride[1] + column * p.residual_stride[2] + channel;
}

/*
 * Writes sums [ROWS, PITCH], COLS of each row, from shared memory with bias and residual, in whole pieces where the
 * channels allow it. `place` gives a row's column (x) and line (y), which may lie outside the frame; `thread`: of THREADS.
 */
template <int ROWS, int COLS, int THREADS, int PITCH, typename PLACE>
__device__ __forceinline__ void conv_write(const zoe_cuda_convolution &p, const float *sums, int frame, int column0,
                                           int thread, PLACE place) {
#pragma unroll 4
    for (int index = thread; index < ROWS * (COLS / 8); index += THREADS) {
        int row = index / (COLS / 8), n = index % (COLS / 8) * 8, channel = column0 + n;
        int2 at = place(row);
        if (at.x >= p.out_width || at.y >= p.out_height || channel >= p.out) continue;
        int64_t to = (((int64_t)frame * p.out_height + at.y) * p.out_width + at.x) * p.out + channel;
        const bf16 *residual = (const bf16 *)p.residual;
        if (residual) residual += residual_at(p, frame, at.y, at.x, channel);
        float v[8];
        load8(v, sums + row * PITCH + n);
        if (p.out % 8 == 0) {
            float add[8];
            if (p.bias) {
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] += p.bias[channel + j];
            }
            if (residual) {
                load8(add, residual);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] += add[j];
            }
            store8((bf16 *)p.y + to, v);
            continue;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (channel + j >= p.out) continue;
            if (p.bias) v[j] += p.bias[channel + j];
            if (residual) v[j] += to_float(residual[j]);
            from_float((bf16 *)p.y + to + j, v[j]);
        }
    }
}

/* Place of a row where rows are the frame's pixels from `row0` on. */
__device__ __forceinline__ int2 pixel_place(const zoe_cuda_convolution &p, int row0, int row) {
    int line = (row0 + row) / p.out_width;
    return make_int2(row0 + row - line * p.out_width, line);
}

#endif
