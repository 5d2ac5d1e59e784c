/*
 * Attention of bf16 on Hopper's matrix unit (the form of FlashAttention-3, Shah et al. 2024). One warp brings tiles of keys
 * and values through a ring in shared memory; each of two warpgroups keeps 64 queries. The warpgroups take turns at the
 * matrix unit, and each asks for the scores of its next tile before it hands in the product with the values of this one.
 */
#include "backend/cuda/flash_hopper.cuh"

#define GROUPS  2
#define STAGES  2
#define QUERIES (64 * GROUPS)
#define KEYS    176 /* the most that registers hold the scores of */
#define THREADS (128 * (GROUPS + 1))
#define D       128 /* channels of a head */

/* Registers of a thread that fetches, and of one that computes: 65536 at most in all. */
#define FETCHER_REGISTERS  24
#define CONSUMER_REGISTERS 240

using flash_ring = bulk_ring<QUERIES * D * 2, KEYS * D * 2, STAGES, GROUPS * 4>;

/* A tile of rows `first` on, in slices of 64 channels that follow each other. */
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, int first, int rows, uint32_t barrier) {
    mbarrier_expect(barrier, rows * D * 2);
#pragma unroll
    for (int d = 0; d < D; d += 64) bulk_box(to + rows * d * 2, map, d, first, blockIdx.y, barrier);
}

__device__ __forceinline__ void produce(const flash_maps &maps, int tiles, const flash_ring &ring) {
    bring(ring.base, &maps.q, blockIdx.x * QUERIES, QUERIES, ring.q_full());
    ring.produce(
        tiles, [&](int t, uint32_t to, uint32_t barrier) { bring(to, &maps.k, t * KEYS, KEYS, barrier); },
        [&](int t, uint32_t to, uint32_t barrier) { bring(to, &maps.v, t * KEYS, KEYS, barrier); });
}

__device__ __forceinline__ void ask_scores(float (&s)[KEYS / 2], uint32_t q, uint32_t k) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_bf16_to<KEYS>(s, wgmma_tile(q + i / 4 * (QUERIES * 128) + i % 4 * 32),
                            wgmma_tile(k + i / 4 * (KEYS * 128) + i % 4 * 32), i > 0);
    wgmma_commit();
}

__device__ __forceinline__ void ask_values(float (&y)[D / 2], const uint32_t (&p)[KEYS / 4], uint32_t v, bool add) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma_bf16_standing<D>(y, p + 4 * i, wgmma_standing_tile(v + i * 2048, KEYS * 128), i > 0 || add);
    wgmma_commit();
}

/* The warpgroups' turns at the matrix unit: barrier 1 + group opens when the other one has handed in its products. */
__device__ __forceinline__ void await_turn(int group) {
    named_sync(1 + group, GROUPS * 128);
}

__device__ __forceinline__ void pass_turn(int group) {
    named_arrive(2 - group, GROUPS * 128);
}

/* A warpgroup's 64 queries against all keys. */
__device__ __forceinline__ void consume(const zoe_cuda_flash &o, int tiles, const flash_ring &ring) {
    int group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, stage = 0, phase = 0;
    uint32_t q = ring.base + group * 64 * 128, operands[KEYS / 4];
    float factor = o.scale * 1.4426950408889634f, last = o.last / o.scale, result[D / 2];
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    if (group == 1) pass_turn(group);
    mbarrier_wait(ring.q_full(), 0);
    mbarrier_wait(ring.k_full(0), 0);
    {
        float s[KEYS / 2];
        await_turn(group);
        ask_scores(s, q, ring.k(0));
        pass_turn(group);
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.k_free(0));
        flash_soften<KEYS>(s, softmax, factor, o.keys, last);
        flash_pack<KEYS>(operands, s);
    }
    for (int t = 1; t < tiles; t++) {
        int before = stage, before_phase = phase;
        float s[KEYS / 2];
        if (++stage == STAGES) stage = 0, phase ^= 1;
        mbarrier_wait(ring.k_full(stage), phase);
        await_turn(group);
        ask_scores(s, q, ring.k(stage));
        mbarrier_wait(ring.v_full(before), before_phase);
        ask_values(result, operands, ring.v(before), t > 1);
        pass_turn(group);
        wgmma_wait<1>();
        if (lane == 0) mbarrier_arrive(ring.k_free(stage));
        bool moved = flash_soften<KEYS>(s, softmax, factor, o.keys - t * KEYS, last);
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.v_free(before));
        if (moved) {
#pragma unroll
            for (int i = 0; i < D / 2; i++) result[i] *= softmax.correction[i / 2 % 2];
        }
        flash_pack<KEYS>(operands, s);
    }
    mbarrier_wait(ring.v_full(stage), phase);
    await_turn(group);
    ask_values(result, operands, ring.v(stage), tiles > 1);
    if (group == 0) pass_turn(group);
    wgmma_wait<0>();
    int row = (blockIdx.x * GROUPS + group) * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    write_rows<D>((bf16 *)o.y + blockIdx.y * o.y_head, o.y_row, row, o.queries, softmax.sum, result);
}

__global__ void __launch_bounds__(THREADS, 1)
    flash_wgmma_kernel(const __grid_constant__ flash_maps maps, zoe_cuda_flash o) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    flash_ring ring = {shared_address(shared)};
    int tiles = (o.keys + KEYS - 1) / KEYS;
    if (threadIdx.x == 0) ring.init();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<FETCHER_REGISTERS>();
        if (threadIdx.x == 0) produce(maps, tiles, ring);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume(o, tiles, ring);
    }
#endif
}

cudaError_t zoe_cuda_launch_flash_hopper(const zoe_cuda_flash *p, cudaStream_t stream) {
    constexpr int bytes = flash_ring::bytes;
    flash_maps maps;
    if (!flash_map(&maps.q, p->q, D, p->queries, p->heads, p->q_row, p->q_head, QUERIES) ||
        !flash_map(&maps.k, p->k, D, p->keys, p->heads, p->k_row, p->k_head, KEYS) ||
        !flash_map(&maps.v, p->v, D, p->keys, p->heads, p->v_row, p->v_head, KEYS))
        return cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute(flash_wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((p->queries + QUERIES - 1) / QUERIES), (unsigned)p->heads);
    flash_wgmma_kernel<<<grid, THREADS, bytes, stream>>>(maps, *p);
    return cudaGetLastError();
}
