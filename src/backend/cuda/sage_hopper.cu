/*
 * Quantised attention on Hopper's matrix unit. One warp brings tiles of keys and values through a ring in shared memory;
 * each of three warpgroups keeps 64 queries, and while one of them takes exponentials the matrix unit works for the others.
 */
#include "backend/cuda/bulk.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/sage.cuh"
#include "backend/cuda/wgmma.cuh"

#define GROUPS  3
#define STAGES  4
#define THREADS (128 * (GROUPS + 1))

/* Registers of a thread that fetches, and of one that computes: 65536 in all. */
#define FETCHER_REGISTERS  32
#define CONSUMER_REGISTERS 160

template <int D> using sage_ring = bulk_ring<GROUPS * SAGE_QUERIES * D, SAGE_KEYS * D, STAGES, GROUPS * 4>;

template <int D> __device__ __forceinline__ void produce(const sage_operands &o, const sage_ring<D> &ring) {
    constexpr int tile = SAGE_KEYS * D, queries = SAGE_QUERIES * D;
    int64_t first = (int64_t)blockIdx.y * o.key_tiles * tile;
    mbarrier_expect(ring.q_full(), GROUPS * queries);
    bulk_copy(ring.base, o.q + ((int64_t)blockIdx.y * o.query_tiles + blockIdx.x * GROUPS) * queries, GROUPS * queries,
              ring.q_full());
    auto bring = [&](const void *from, int t, uint32_t to, uint32_t barrier) {
        mbarrier_expect(barrier, tile);
        bulk_copy(to, (const char *)from + first + (int64_t)t * tile, tile, barrier);
    };
    ring.produce(
        o.key_tiles, [&](int t, uint32_t to, uint32_t barrier) { bring(o.k, t, to, barrier); },
        [&](int t, uint32_t to, uint32_t barrier) { bring(o.v, t, to, barrier); });
}

template <int D> __device__ __forceinline__ uint64_t tile_of_rows(uint32_t address) {
    return D == 128 ? wgmma_tile(address) : wgmma_narrow_tile(address);
}

/* s[64, 128] = q[64, D] k[128, D]^T */
template <int D> __device__ __forceinline__ void ask_scores(int (&s)[64], uint64_t q, uint64_t k) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < D / 32; i++) wgmma_s8(s, wgmma_step(q, i * 32), wgmma_step(k, i * 32), i > 0);
    wgmma_commit();
}

/* y[64, D] = p[64, 128] v[D, 128]^T */
template <int D> __device__ __forceinline__ void ask_values(float (&y)[D / 2], const uint32_t (&p)[16], uint64_t v) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma_e4m3<D>(y, p + 4 * i, wgmma_step(v, i * 32), i > 0);
    wgmma_commit();
}

/* A warpgroup's 64 queries against all keys. */
template <int D> __device__ __forceinline__ void consume(const sage_operands &o, const sage_ring<D> &ring) {
    int group = uniform(threadIdx.x / 128) - 1, head = blockIdx.y, lane = threadIdx.x % 32;
    int row = (blockIdx.x * GROUPS + group) * SAGE_QUERIES + threadIdx.x / 32 % 4 * 16 + lane / 4;
    uint64_t q = tile_of_rows<D>(ring.base + group * SAGE_QUERIES * D);
    const float *k_factor = o.k_factor + (int64_t)head * o.key_tiles;
    const float *q_factor = o.q_factor + (int64_t)head * o.query_tiles * SAGE_QUERIES + row;
    sage_rows softmax = {{q_factor[0], q_factor[8]}, {-INFINITY, -INFINITY}};
    float result[D / 2];
#pragma unroll
    for (int i = 0; i < D / 2; i++) result[i] = 0;
    mbarrier_wait(ring.q_full(), 0);
    for (int t = 0, stage = 0, phase = 0; t < o.key_tiles; t++) {
        float factor = k_factor[t], part[D / 2];
        int s[64];
        uint32_t operands[16];
        mbarrier_wait(ring.k_full(stage), phase);
        ask_scores<D>(s, q, tile_of_rows<D>(ring.k(stage)));
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.k_free(stage));
        if (sage_tops(s, softmax, factor, o.keys - t * SAGE_KEYS)) {
#pragma unroll
            for (int i = 0; i < D / 2; i++) result[i] *= softmax.correction[i / 2 % 2];
        }
        mbarrier_wait(ring.v_full(stage), phase);
        /* Some at a time: sums and conversions go on in the shadow of the exponentials. */
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float p[8];
            sage_probabilities(p, s + 8 * i, softmax, i % 2 * 2);
            operands[2 * i] = pack_e4m3(p[0], p[1], p[4], p[5]);
            operands[2 * i + 1] = pack_e4m3(p[2], p[3], p[6], p[7]);
        }
        ask_values<D>(part, operands, wgmma_tile(ring.v(stage)));
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.v_free(stage));
            /* The matrix unit sums up e4m3 in some 14 bits: over a tile that is enough, over a row it is not. */
#pragma unroll
        for (int i = 0; i < D / 2; i++) result[i] += part[i];
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
    sage_write<D>(o, softmax, result, head, row);
}

template <int D> __global__ void __launch_bounds__(THREADS, 1) sage_wgmma_kernel(sage_operands o) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    sage_ring<D> ring = {shared_address(shared)};
    if (threadIdx.x == 0) ring.init();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<FETCHER_REGISTERS>();
        if (threadIdx.x == 0) produce<D>(o, ring);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume<D>(o, ring);
    }
#endif
}

template <int D> static cudaError_t launch(const sage_operands *o, cudaStream_t stream) {
    constexpr int bytes = sage_ring<D>::bytes;
    cudaError_t error = cudaFuncSetAttribute(sage_wgmma_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)(o->query_tiles / GROUPS), (unsigned)o->heads);
    sage_wgmma_kernel<D><<<grid, THREADS, bytes, stream>>>(*o);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_sage_hopper(const sage_operands *o, int dim, cudaStream_t stream) {
    return dim == 128 ? launch<128>(o, stream) : launch<64>(o, stream);
}
