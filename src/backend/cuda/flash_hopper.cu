/*
 * Attention of bf16 on Hopper's matrix unit (the form of FlashAttention-3, Shah et al. 2024). One warp brings tiles of keys
 * and values through a ring in shared memory; each of three warpgroups keeps 64 queries. The warpgroups take turns
 * at the matrix unit, and each asks for the scores of its next tile before it hands in the product with the values of this
 * one.
 */
#include "backend/cuda/flash_hopper.cuh"

#define GROUPS  3
#define STAGES  4
#define QUERIES (64 * GROUPS)
#define THREADS (128 * (GROUPS + 1))

/* Registers of a thread that fetches, and of one that computes: 65536 at most in all. */
#define FETCHER_REGISTERS  32
#define CONSUMER_REGISTERS 160

/* Heads of D channels, and tiles of as many keys as registers hold the scores of. */
template <int D, int KEYS> struct flash_form {
    static const int dim = D, keys = KEYS;
    using ring = bulk_ring<QUERIES * D * 2, KEYS * D * 2, STAGES, GROUPS * 4>;
};

/* A tile of rows `first` on, in slices of 64 channels that follow each other. */
template <typename F>
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, int first, int rows, uint32_t barrier) {
    mbarrier_expect(barrier, rows * F::dim * 2);
#pragma unroll
    for (int d = 0; d < F::dim; d += 64) bulk_box(to + rows * d * 2, map, d, first, blockIdx.y, barrier);
}

template <typename F>
__device__ __forceinline__ void produce(const flash_maps &maps, int tiles, const typename F::ring &ring) {
    bring<F>(ring.base, &maps.q, blockIdx.x * QUERIES, QUERIES, ring.q_full());
    ring.produce(
        tiles, [&](int t, uint32_t to, uint32_t barrier) { bring<F>(to, &maps.k, t * F::keys, F::keys, barrier); },
        [&](int t, uint32_t to, uint32_t barrier) { bring<F>(to, &maps.v, t * F::keys, F::keys, barrier); });
}

template <typename F> __device__ __forceinline__ void ask_scores(float (&s)[F::keys / 2], uint32_t q, uint32_t k) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < F::dim / 16; i++)
        wgmma_bf16_to<F::keys>(s, wgmma_tile(q + i / 4 * (QUERIES * 128) + i % 4 * 32),
                               wgmma_tile(k + i / 4 * (F::keys * 128) + i % 4 * 32), i > 0);
    wgmma_commit();
}

template <typename F>
__device__ __forceinline__ void ask_values(float (&y)[F::dim / 2], const uint32_t (&p)[F::keys / 4], uint32_t v, bool add) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < F::keys / 16; i++)
        wgmma_bf16_standing<F::dim>(y, p + 4 * i, wgmma_standing_tile(v + i * 2048, F::keys * 128), i > 0 || add);
    wgmma_commit();
}

/* The warpgroups' turns at the matrix unit: barrier 1 + group opens when the one before it has handed in its products. */
__device__ __forceinline__ void await_turn(int group) {
    named_sync(1 + group, 2 * 128);
}

__device__ __forceinline__ void pass_turn(int group) {
    named_arrive(1 + (group + 1) % GROUPS, 2 * 128);
}

/*
 * Keeps the compiler from moving the wait for the values' product up to in front of the softmax, beside which it is to run:
 * the wait cannot pass a vote that needs every probability. Sums are never negative.
 */
__device__ __forceinline__ void finish_softmax(const flash_rows &softmax) {
    if (__any_sync(0xffffffffu, softmax.sum[0] + softmax.sum[1] < 0)) asm volatile("nanosleep.u32 0;" ::: "memory");
}

/* A warpgroup's 64 queries against all keys. */
template <typename F>
__device__ __forceinline__ void consume(const zoe_cuda_flash &o, int tiles, const typename F::ring &ring) {
    int group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, stage = 0, phase = 0;
    uint32_t q = ring.base + group * 64 * 128, operands[F::keys / 4];
    float factor = o.scale * 1.4426950408889634f, last = o.last / o.scale, result[F::dim / 2];
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    if (group == GROUPS - 1) pass_turn(group);
    mbarrier_wait(ring.q_full(), 0);
    mbarrier_wait(ring.k_full(0), 0);
    {
        float s[F::keys / 2];
        await_turn(group);
        ask_scores<F>(s, q, ring.k(0));
        pass_turn(group);
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.k_free(0));
        flash_soften<F::keys>(s, softmax, factor, o.keys, last);
        flash_pack<F::keys>(operands, s);
    }
    for (int t = 1; t < tiles; t++) {
        int before = stage, before_phase = phase;
        float s[F::keys / 2];
        if (++stage == STAGES) stage = 0, phase ^= 1;
        mbarrier_wait(ring.k_full(stage), phase);
        await_turn(group);
        ask_scores<F>(s, q, ring.k(stage));
        mbarrier_wait(ring.v_full(before), before_phase);
        ask_values<F>(result, operands, ring.v(before), t > 1);
        pass_turn(group);
        wgmma_wait<1>();
        if (lane == 0) mbarrier_arrive(ring.k_free(stage));
        bool moved = flash_soften<F::keys>(s, softmax, factor, o.keys - t * F::keys, last);
        finish_softmax(softmax);
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.v_free(before));
        if (moved) {
#pragma unroll
            for (int i = 0; i < F::dim / 2; i++) result[i] *= softmax.correction[i / 2 % 2];
        }
        flash_pack<F::keys>(operands, s);
    }
    mbarrier_wait(ring.v_full(stage), phase);
    await_turn(group);
    ask_values<F>(result, operands, ring.v(stage), tiles > 1);
    if (group < GROUPS - 1) pass_turn(group);
    wgmma_wait<0>();
    int row = (blockIdx.x * GROUPS + group) * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    write_rows<F::dim>((bf16 *)o.y + blockIdx.y * o.y_head, o.y_row, row, o.queries, softmax.sum, result);
}

template <typename F>
__global__ void __launch_bounds__(THREADS, 1)
    flash_wgmma_kernel(const __grid_constant__ flash_maps maps, zoe_cuda_flash o) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    typename F::ring ring = {shared_address(shared)};
    int tiles = (o.keys + F::keys - 1) / F::keys;
    if (threadIdx.x == 0) ring.init();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<FETCHER_REGISTERS>();
        if (threadIdx.x == 0) produce<F>(maps, tiles, ring);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume<F>(o, tiles, ring);
    }
#endif
}

template <typename F> static cudaError_t launch(const zoe_cuda_flash *p, cudaStream_t stream) {
    constexpr int bytes = F::ring::bytes;
    flash_maps maps;
    if (!flash_map(&maps.q, p->q, F::dim, p->queries, p->heads, p->q_row, p->q_head, QUERIES) ||
        !flash_map(&maps.k, p->k, F::dim, p->keys, p->heads, p->k_row, p->k_head, F::keys) ||
        !flash_map(&maps.v, p->v, F::dim, p->keys, p->heads, p->v_row, p->v_head, F::keys))
        return cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute(flash_wgmma_kernel<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((p->queries + QUERIES - 1) / QUERIES), (unsigned)p->heads);
    flash_wgmma_kernel<F><<<grid, THREADS, bytes, stream>>>(maps, *p);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_flash_hopper(const zoe_cuda_flash *p, cudaStream_t stream) {
    return p->dim == 64 ? launch<flash_form<64, 128>>(p, stream) : launch<flash_form<128, 80>>(p, stream);
}
