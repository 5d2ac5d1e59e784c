/*
 * Quantised attention on mma.sync, for chips without wgmma: int8 on all, values of e4m3 from sm_89 on and of half before.
 *
 * A block of four warps takes 64 queries of one head, a warp 16 of them. Halves of key tiles are fetched while the ones
 * before are worked on.
 */
#include "backend/cuda/mma.cuh"
#include "backend/cuda/sage.cuh"

#define KEYS    (SAGE_KEYS / 2)
#define THREADS 128

template <int D, bool HALF> struct tiles {
    static const int k_bytes = KEYS * D, v_width = HALF ? KEYS * 2 : KEYS, v_bytes = D * v_width;
    static const int q_bytes = SAGE_QUERIES * D, bytes = q_bytes + 2 * (k_bytes + v_bytes);

    /* Fetches half tile `t` of a head's keys and values; the values' rows lose the other half's pieces. */
    static __device__ __forceinline__ void fetch(uint32_t to, const char *k, const char *v, int t) {
        constexpr int pieces = v_width / 16;
#pragma unroll
        for (int i = 0; i < k_bytes / 16 / THREADS; i++) {
            int at = (threadIdx.x + i * THREADS) * 16;
            cp_async16(to + at, k + (int64_t)t * k_bytes + at, true);
        }
        v += (int64_t)(t / 2) * 2 * v_bytes;
#pragma unroll
        for (int i = 0; i < v_bytes / 16 / THREADS; i++) {
            int index = threadIdx.x + i * THREADS, row = index / pieces, piece = index % pieces;
            cp_async16(to + k_bytes + sage_piece<v_width>(row, piece),
                       v + sage_piece<2 * v_width>(row, t % 2 * pieces + piece), true);
        }
    }
};

template <int D, bool HALF> __global__ void __launch_bounds__(THREADS) sage_mma_kernel(sage_operands o) {
    extern __shared__ __align__(128) char shared[];
    typedef tiles<D, HALF> sizes;
    uint32_t q_tile = shared_address(shared), ring = q_tile + sizes::q_bytes;
    int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
    int count = (o.keys + KEYS - 1) / KEYS;
    int64_t tile = (int64_t)head * o.query_tiles + blockIdx.x;
    const char *k = (const char *)o.k + (int64_t)head * o.key_tiles * 2 * sizes::k_bytes;
    const char *v = (const char *)o.v + (int64_t)head * o.key_tiles * 2 * sizes::v_bytes;
    const float *k_factor = o.k_factor + (int64_t)head * o.key_tiles;
    const float *q_factor = o.q_factor + tile * SAGE_QUERIES + row;
    sage_rows softmax = {{q_factor[0], q_factor[8]}, {-INFINITY, -INFINITY}};
    uint32_t q_part[D / 32][4];
    float result[D / 2];
#pragma unroll
    for (int i = 0; i < D / 2; i++) result[i] = 0;

#pragma unroll
    for (int i = 0; i < sizes::q_bytes / 16 / THREADS; i++) {
        int at = (threadIdx.x + i * THREADS) * 16;
        cp_async16(q_tile + at, (const char *)o.q + tile * sizes::q_bytes + at, true);
    }
    sizes::fetch(ring, k, v, 0);
    cp_async_commit();
    for (int t = 0; t < count; t++) {
        uint32_t k_tile = ring + (t & 1) * (sizes::k_bytes + sizes::v_bytes), v_tile = k_tile + sizes::k_bytes;
        if (t + 1 < count) sizes::fetch(ring + (~t & 1) * (sizes::k_bytes + sizes::v_bytes), k, v, t + 1);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (t == 0) {
#pragma unroll
            for (int i = 0; i < D / 32; i++)
                ldmatrix(q_part[i], q_tile + sage_piece<D>(warp * 16 + lane % 16, 2 * i + lane / 16));
        }
        int s[KEYS / 2];
        float p[KEYS / 2];
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
#pragma unroll
        for (int i = 0; i < D / 32; i++)
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                uint32_t b[4];
                ldmatrix(b, k_tile + sage_piece<D>(j * 16 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
                mma_s8(s + 8 * j, q_part[i], b[0], b[1]);
                mma_s8(s + 8 * j + 4, q_part[i], b[2], b[3]);
            }
        if (sage_tops(s, softmax, k_factor[t / 2], o.keys - t * KEYS)) {
#pragma unroll
            for (int i = 0; i < D / 2; i++) result[i] *= softmax.correction[i / 2 % 2];
        }
#pragma unroll
        for (int i = 0; i < KEYS / 2; i += 8) sage_probabilities(p + i, s + i, softmax, -1);
        /* Products of e4m3 are summed up in fewer digits than float32 has: each half tile by itself. */
        constexpr int depth = HALF ? 16 : 32, steps = KEYS / depth;
        uint32_t a[steps][4];
#pragma unroll
        for (int g = 0; g < steps; g++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (HALF) {
                    const float *from = p + 8 * g + 2 * i;
                    a[g][i] = pack_half(from[0], from[1]);
                } else {
                    const float *from = p + 16 * g + i / 2 * 8 + i % 2 * 2;
                    a[g][i] = pack_e4m3(from[0], from[1], from[4], from[5]);
                }
            }
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            float part[8] = {0};
#pragma unroll
            for (int g = 0; g < steps; g++) {
                uint32_t b[4];
                int piece = 2 * g + lane / 8 % 2;
                ldmatrix(b, v_tile + sage_piece<sizes::v_width>(d * 16 + lane % 8 + lane / 16 * 8, piece));
                if (HALF)
                    mma_half(part, a[g], b[0], b[1]), mma_half(part + 4, a[g], b[2], b[3]);
                else
                    mma_e4m3(part, a[g], b[0], b[1]), mma_e4m3(part + 4, a[g], b[2], b[3]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) result[8 * d + i] += part[i];
        }
        __syncthreads(); /* the next round fetches into this tile */
    }
    sage_write<D>(o, softmax, result, head, blockIdx.x * SAGE_QUERIES + row);
}

template <int D, bool HALF> static cudaError_t launch(const sage_operands *o, cudaStream_t stream) {
    constexpr int bytes = tiles<D, HALF>::bytes;
    cudaError_t error = cudaFuncSetAttribute(sage_mma_kernel<D, HALF>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((o->queries + SAGE_QUERIES - 1) / SAGE_QUERIES), (unsigned)o->heads);
    sage_mma_kernel<D, HALF><<<grid, THREADS, bytes, stream>>>(*o);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_sage(const zoe_cuda_flash *p, void *memory, int level, cudaStream_t stream) {
    sage_operands o;
    bool half = level < 89;
    cudaError_t error = zoe_cuda_sage_quantise(p, half, &o, memory, stream);
    if (error != cudaSuccess) return error;
    if (level == 90) return zoe_cuda_launch_sage_hopper(&o, p->dim, stream);
    if (p->dim == 128) return half ? launch<128, true>(&o, stream) : launch<128, false>(&o, stream);
    return half ? launch<64, true>(&o, stream) : launch<64, false>(&o, stream);
}
